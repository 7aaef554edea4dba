"""Reading text files and JSON, with errors that name the line.

Everything that the suites and the tables of texts have in common is handled here: encoding, line ends, keys that
occur twice, lone surrogates, nesting depth, and numbers of any length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from regmean_lab.suites.base import DataError, MissingDataError

SHOWN_ERRORS = 10
"""How many kinds of malformed lines an error names."""

SHOWN_LINES = 4
"""How many more lines it names of each kind."""

MOST_DIGITS = 300
"""Longer numbers are refused: they are no labels, and no float can hold them."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_FILES = (
    (b"\xff\xfe", "is UTF-16, not UTF-8; save it as UTF-8, for example with: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "is UTF-16, not UTF-8; save it as UTF-8, for example with: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "is compressed (gzip), not text; unpack it first"),
    (b"PK\x03\x04", "is compressed (zip, or a spreadsheet), not text; unpack it, or save it as .csv in UTF-8"),
)
"""What the first bytes of a file tell."""

_PROBED = 4096
_HALF_WRITTEN = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")

Row = TypeVar("Row")
Result = TypeVar("Result")


def parse_lines(path: Path, parse: Callable[[str], Row], blank: Row | None = None) -> list[Row]:
    """The rows of :func:`parse_numbered_lines` alone."""
    return [row for _, row in parse_numbered_lines(path, parse, blank)]


def parse_numbered_lines(path: Path, parse: Callable[[str], Row], blank: Row | None = None) -> list[tuple[int, Row]]:
    r"""Parse every line of a UTF-8 file that is not blank.

    A byte-order mark, any form of line end, and a last line without one are accepted. Lines end at ``\n`` or ``\r\n``
    (at ``\r`` where a file has no ``\n``) only: :meth:`str.splitlines` would also cut at characters that may occur
    inside a text.

    Args:
        path: the file.
        parse: makes a row of a line (without its end), or raises ``ValueError`` saying what is wrong with it.
        blank: the row of a blank line, for formats in which it separates examples; None leaves blank lines out.

    Returns:
        Line number, from 1, and row of each line.

    Raises:
        DataError: naming file and lines of up to ten kinds of malformed lines, or if the file holds no line.
    """
    rows: list[tuple[int, Row]] = []
    errors: list[tuple[int, str]] = []
    undecodable: list[tuple[int, UnicodeDecodeError]] = []
    for number, raw in _raw_lines(_content(path)):
        if not raw.strip():
            if blank is not None:
                rows.append((number, blank))
            continue
        try:
            line = raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            undecodable.append((number, error))
            continue
        try:
            rows.append((number, parse(line)))
        except ValueError as error:
            errors.append((number, str(error)))
    if errors or undecodable:
        lines = [gathered(lambda number: f"{path}:{number}", errors)] if errors else []
        raise DataError("\n".join([*lines, *([_not_utf8(path, undecodable)] if undecodable else [])]))
    if all(row is blank for _, row in rows):
        raise DataError(f"{path}: holds no example.")
    return rows


def read_together(readings: Iterable[Callable[[], Result]]) -> list[Result]:
    """What several readings of data give; all of them are tried before anything wrong is told.

    Raises:
        DataError: with everything that is wrong; of missing files, the first alone.
    """
    results, wrong = [], dict[str, None]()
    for read in readings:
        try:
            results.append(read())
        except MissingDataError:
            raise
        except DataError as error:
            wrong[str(error)] = None
    if wrong:
        raise DataError("\n".join(wrong))
    return results


def read_utf8(path: Path) -> str:
    """The text of a UTF-8 file, without a byte-order mark, its line ends as they are.

    Raises:
        DataError: naming the line of the first byte that is no UTF-8, and what to do.
    """
    content = _content(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        undecodable = []
        for number, raw in _raw_lines(content):
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as error:
                undecodable.append((number, error))
        raise DataError(_not_utf8(path, undecodable)) from None


def gathered(place: Callable[[int], str], errors: Sequence[tuple[int, str]], *, what: str = "malformed lines") -> str:
    """Errors as lines of a message, those of one kind in one line.

    Args:
        place: says where a number is.
        errors: numbers and what is wrong there, in order.
        what: what is counted.
    """
    kinds: dict[str, list[int]] = {}
    for number, message in errors:
        kinds.setdefault(message, []).append(number)
    lines = [f"{place(numbers[0])}: {message}{_others(numbers[1:], what)}" for message, numbers in kinds.items()]
    if len(lines) > SHOWN_ERRORS:
        rest = sum(len(numbers) for numbers in list(kinds.values())[SHOWN_ERRORS:])
        lines = [*lines[:SHOWN_ERRORS], f"... and {rest} more {what}"]
    return "\n".join(lines)


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: for what is no JSON; for a key that occurs twice in an object, of which readers disagree; for half
            of a surrogate pair, which is no character; for what is nested too deeply, or a number too long.
    """
    try:
        content = _DECODER.decode(text)
        if _HALF_WRITTEN.search(text) and (found := _half_character(content)):
            raise ValueError(found)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply to be read") from None
    return content


def json_object(line: str) -> dict[str, Any]:
    """The JSON object that a line holds.

    Raises:
        ValueError: saying what is there instead.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        hint = "; each line holds one object" if isinstance(row, list) else ""
        raise ValueError(f"expected a JSON object, found {json.dumps(row)[:60]}{hint}")
    return row


def limit_problems(settings: object, *names: str) -> list[str]:
    """One message for each of the named limits (number of examples, or None) that is below 1."""
    values = {name: getattr(settings, name) for name in names}
    return [
        f"{name}: expected at least 1 or null, got {value}"
        for name, value in values.items()
        if value is not None and value < 1
    ]


def _content(path: Path) -> bytes:
    """A file's bytes without a byte-order mark.

    Raises:
        DataError: for files that are plainly no UTF-8 text.
    """
    content = path.read_bytes()
    for start, message in _OTHER_FILES:
        if content.startswith(start):
            raise DataError(f"{path}:1: the file {message}")
    # Text of one byte a character, and every other byte zero: UTF-16 (or 32) without a mark.
    head = content[:_PROBED]
    if 4 * head.count(0) > len(head):
        raise DataError(f"{path}:1: the file {_OTHER_FILES[0][1].replace('is UTF-16', 'seems to be UTF-16')}")
    return content.removeprefix(BYTE_ORDER_MARK)


def _raw_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    end = b"\r" if b"\n" not in content else b"\n"
    return enumerate(content.split(end), start=1)


def _not_utf8(path: Path, found: Sequence[tuple[int, UnicodeDecodeError]]) -> str:
    number, error = found[0]
    others = _others([number for number, _ in found[1:]], "lines")
    return (
        f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start + 1} of the line){others}; save the file as "
        "UTF-8: of an older Western one, for example, with: iconv -f WINDOWS-1252 -t UTF-8"
    )


def _others(numbers: Sequence[int], what: str) -> str:
    if not numbers:
        return ""
    shown = ", ".join([*map(str, numbers[:SHOWN_LINES]), *(["…"] if len(numbers) > SHOWN_LINES else [])])
    noun = what.split()[-1]
    return f" (also on {len(numbers)} more {noun if len(numbers) > 1 else noun.removesuffix('s')}: {shown})"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice)} occurs twice in an object; expected once")
    return content


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; expected at most {MOST_DIGITS}")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer)


def _half_character(value: Any, where: str = "") -> str | None:
    """A message for the first text in a JSON value that holds half of a surrogate pair."""
    if isinstance(value, str):
        if half := _HALF.search(value):
            name = f"{where}: " if where else ""
            return (
                f"{name}half of a character (\\u{ord(half[0]):04x} without its other half), as where a text was cut "
                "inside an emoji; correct the text, or leave the row out"
            )
    elif isinstance(value, dict):
        for name, part in value.items():
            if found := _half_character(name, where) or _half_character(part, where or json.dumps(name)):
                return found
    elif isinstance(value, list):
        for part in value:
            if found := _half_character(part, where):
                return found
    return None

"""Reading text files line by line, with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from regmean_lab.suites.base import DataError

SHOWN_ERRORS = 10
"""How many malformed lines an error names."""

Row = TypeVar("Row")


def parse_lines(path: Path, parse: Callable[[str], Row], blank: Row | None = None) -> list[Row]:
    r"""Parse every line of a UTF-8 file that is not blank.

    A byte-order mark, either form of line end, and a last line without one are accepted. Lines end at ``\n`` only:
    :meth:`str.splitlines` would also cut at characters that may occur inside a text.

    Args:
        path: the file.
        parse: makes a row of a line (without its end), or raises ``ValueError`` saying what is wrong with it.
        blank: the row of a blank line, for formats in which it separates examples; None leaves blank lines out.

    Raises:
        DataError: naming file and line of up to ten malformed lines, or if the file holds no line.
    """
    rows: list[Row] = []
    errors: list[str] = []
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            if blank is not None:
                rows.append(blank)
            continue
        try:
            rows.append(parse(_decoded(raw)))
        except ValueError as error:
            errors.append(f"{path}:{number}: {error}")
    if errors:
        more = [f"... and {len(errors) - SHOWN_ERRORS} more malformed lines"] if len(errors) > SHOWN_ERRORS else []
        raise DataError("\n".join(errors[:SHOWN_ERRORS] + more))
    if all(row is blank for row in rows):
        raise DataError(f"{path}: holds no example.")
    return rows


def json_object(line: str) -> dict[str, Any]:
    """The JSON object that a line holds.

    Raises:
        ValueError: saying what is there instead.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {json.dumps(row)[:60]}")
    return row


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start + 1} of the line)") from error


def limit_problems(settings: object, *names: str) -> list[str]:
    """One message for each of the named limits (number of examples, or None) that is below 1."""
    values = {name: getattr(settings, name) for name in names}
    return [
        f"{name}: expected at least 1 or null, got {value}"
        for name, value in values.items()
        if value is not None and value < 1
    ]

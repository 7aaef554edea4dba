"""Tables whose columns are separated by a character: which one it is, whether there are names, and the rows.

Only data sets of the hub are read by the library ``datasets``. It reads such files by pandas, which unless it is told
otherwise takes "NA" and "007" for a missing value and a number, and rows come without the lines of the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from regmean_lab.suites.base import DataError
from regmean_lab.suites.reading import gathered, read_utf8
from regmean_lab.suites.tables.column_names import header_doubts, numbered

DELIMITERS = (",", ";", "\t", "|")
LONGEST_FIELD = 2**31 - 1
"""Characters of a field; the library's own limit is 131,072 and shorter than many a document."""

SHOWN = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_OPENED = "a quotation mark is opened here and never closed"
_CLOSED = "text after a closing quotation mark; inside of quotes a quotation mark is written twice"

Record = tuple[int, list[str]]
"""Number of the line that a record begins in, and its fields."""


def read_delimited(
    path: Path, *, header: bool | None, typed: Collection[str] = ()
) -> tuple[tuple[str, ...], list[dict[str, str]], list[int]]:
    """Read a table.

    A ``.tsv`` is separated by tabs, and quotation marks are text; of any other file the first line tells which of
    ``DELIMITERS`` separates columns, and where it holds several, the one that gives all lines as many fields. A field
    in quotes may hold anything. Columns without a name, such as the index that pandas writes, are left out.

    Args:
        path: the file.
        header: whether the first line holds the columns' names (without them they are ``column_1`` and so on); None
            where the line itself must tell.
        typed: names of columns that the user gave, which the first line may hold.

    Returns:
        Names of columns, rows, and the line of each row.

    Raises:
        DataError: naming file and line.
    """
    text = read_utf8(path)
    with _fields_of_any_length():
        tabs = path.suffix.lower() == ".tsv"
        delimiter = "\t" if tabs else _delimiter(path, text)
        # Of tab-separated files quotes are usually text.
        records = list(_records(path, text, delimiter, csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL))
    if not records:
        return (), [], []
    names, records = _names(path, records, header, typed)
    errors = [
        (
            line,
            f"{'more' if len(fields) > len(names) else 'fewer'} fields than the {len(names)} columns of the first line",
        )
        for line, fields in records
        if len(fields) != len(names)
    ]
    if errors:
        remedy = f"a text that holds {SHOWN[delimiter]} must be in quotes; a file of one text a line is named .txt"
        found = gathered(lambda line: f"{path}:{line}", errors)
        raise DataError(f"{found}\ncolumns are separated by {SHOWN[delimiter]}" + ("" if tabs else f": {remedy}"))
    kept = [position for position, name in enumerate(names) if name]
    rows = [{names[position]: fields[position] for position in kept} for _, fields in records]
    return tuple(names[position] for position in kept), rows, [line for line, _ in records]


def _names(
    path: Path, records: list[Record], header: bool | None, typed: Collection[str]
) -> tuple[list[str], list[Record]]:
    """Names of all columns, and the records without those of the names."""
    first = [field.strip() for field in records[0][1]]
    if header is False:
        return [numbered(position) for position in range(len(first))], records
    place = f"{path}:{records[0][0]}"
    if header is None and (doubts := header_doubts(first, [fields for _, fields in records[1:]], typed)):
        raise DataError(
            f"{place}: cannot tell whether the first line is a header with column names: {doubts}; set header=true, "
            f"or header=false if there are no names (columns are then called {numbered(0)}, …)\n"
            f"the first line: {' | '.join(first)[:120]}"
        )
    if twice := [name for name in dict.fromkeys(first) if name and first.count(name) > 1]:
        raise DataError(
            f"{place}: the column name {twice[0]!r} occurs {first.count(twice[0])} times; rename all but one"
        )
    if not any(first):
        raise DataError(f"{place}: no column has a name")
    return first, records[1:]


def _delimiter(path: Path, text: str) -> str:
    """The character that separates columns; a comma where there is one column."""
    found = [delimiter for delimiter in DELIMITERS if _first_width(text, delimiter) > 1]
    if not found:
        return ","
    if len(found) == 1:
        return found[0]
    widths = {delimiter: _width(path, text, delimiter) for delimiter in found}
    regular = [delimiter for delimiter in found if widths[delimiter] is not None]
    if len(regular) == 1:
        return regular[0]
    if not regular:
        return "," if "," in found else found[0]
    raise DataError(
        f"{path}:1: cannot tell which character separates columns: "
        + ", ".join(f"{SHOWN[delimiter]} gives {widths[delimiter]} columns" for delimiter in regular)
        + "; put fields in quotes that hold the other"
    )


def _first_width(text: str, delimiter: str) -> int:
    """Number of fields of the first line that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return len(next((fields for fields in reader if fields), []))
    except csv.Error:
        return 0


def _width(path: Path, text: str, delimiter: str) -> int | None:
    """Number of fields of all lines; None where they differ."""
    try:
        widths = {len(fields) for _, fields in _records(path, text, delimiter, csv.QUOTE_MINIMAL)}
    except DataError:
        return None
    return widths.pop() if len(widths) == 1 else None


def _records(path: Path, text: str, delimiter: str, quoting: Literal[0, 3]) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        reason = str(error)
        reason = _OPENED if "unexpected end" in reason else _CLOSED if "expected after" in reason else reason
        raise DataError(f"{path}:{line}: {reason}") from None


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)

"""Rows of data: a local file of any usual format, or a data set that the library ``datasets`` finds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.suites.base import DataError, MissingDataError
from regmean_lab.suites.reading import json_object, parse_json, parse_numbered_lines, read_utf8
from regmean_lab.suites.tables.delimited import read_delimited

DELIMITED = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".json", *DELIMITED, ".txt", ".parquet")
TEXT_COLUMN = "text"
"""The only column of a file of plain text."""


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        name: what messages and records call it: the file, or the data set.
        columns: names of the columns, in order.
        rows: the rows, in order; where each is, messages tell by :meth:`number` and :meth:`place`.
        lines: for each row the line of the file that it begins in; None of what has no lines.
        keyed: whether the format itself tells names from texts, as a table in which a first line holds names does not.
    """

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int] | None = None
    keyed: bool = True

    def number(self, row: int) -> int:
        """The number by which messages tell a row, which is counted from 0 here: its line, or its place from 1."""
        return row + 1 if self.lines is None else self.lines[row]

    def place(self, number: int) -> str:
        """Where the row with such a number is."""
        return f"{self.name}{': row ' if self.lines is None else ':'}{number}"


def is_file_name(data: str) -> bool:
    """Whether a name can only be that of a local file."""
    return Path(data).suffix.lower() in SUFFIXES or Path(data).expanduser().is_file()


def missing_file(data: str, key: str = "data") -> str | None:
    """What is wrong with the name of a local file, before it is read; None for what can be read, or is no file.

    Args:
        data: the name.
        key: the setting that holds it, for the message.
    """
    path = Path(data).expanduser()
    if not is_file_name(data):
        return None
    if not path.is_file():
        return f"{key}: no such file: {path}"
    if path.suffix.lower() not in SUFFIXES:
        return f"{key}: {path} has the ending {path.suffix or 'of nothing'!r}; expected one of {', '.join(SUFFIXES)}"
    return None


def read_table(
    data: str,
    *,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    header: bool | None = None,
    typed: Collection[str] = (),
    most: int | None = None,
    key: str = "data",
) -> Table:
    """Read a table.

    Args:
        data: a local file (see ``SUFFIXES``; ``.txt`` with a text per line, ``.json`` with a list of objects), or what
            ``datasets.load_dataset`` takes as its first argument.
        subset: configuration of a data set.
        split: split of a data set.
        revision: revision of a data set on the hub.
        header: of ``.csv`` and ``.tsv``, whether the first line holds the columns' names; None: it must tell itself.
        typed: names of columns that the user gave.
        most: of a data set, read only the first N rows (it is then streamed); None reads all.
        key: the setting that names the data, for messages.

    Raises:
        DataError: when it cannot be read, naming file and line; when it has no rows.
    """
    if problem := missing_file(data, key):
        raise MissingDataError(problem)
    if is_file_name(data):
        table = _file_table(data, header, typed)
    else:
        rows = _hub_rows(data, subset, split, revision, most, key)
        table = Table(data, tuple(map(str, rows[0])) if rows else (), rows)
    if not table.rows:
        raise DataError(f"{key}: {data} has no rows")
    return table


def _file_table(data: str, header: bool | None, typed: Collection[str]) -> Table:
    path = Path(data).expanduser()
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        columns, rows, lines = read_delimited(path, header=header, typed=typed)
        return Table(data, columns, rows, lines, keyed=False)
    if suffix == ".parquet":
        return _parquet_table(data, path)
    if suffix == ".json":
        rows = _json_rows(path)
        return Table(data, _keys(rows), rows)
    parse = json_object if suffix == ".jsonl" else _plain_text
    numbered = parse_numbered_lines(path, parse)
    rows = [row for _, row in numbered]
    return Table(data, _keys(rows), rows, [number for number, _ in numbered])


def _plain_text(line: str) -> dict[str, Any]:
    return {TEXT_COLUMN: line}


def _keys(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """All keys, in the order in which they come: a first row that lacks one does not hide it."""
    return tuple(dict.fromkeys(key for row in rows for key in row))


def _json_rows(path: Path) -> list[dict[str, Any]]:
    text = read_utf8(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        hint = "; one object a line is expected in files named .jsonl" if "Extra data" in str(error) else ""
        raise DataError(f"{path}: {error}{hint}") from None
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        found = f"an object with the keys {', '.join(content)[:60]}" if isinstance(content, dict) else "something else"
        raise DataError(f"{path}: expected a list of objects with the columns as keys, found {found}")
    return content


def _parquet_table(data: str, path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        names = [str(name) for name in table.column_names]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise DataError(
                f"{path}: the column name {twice[0]!r} occurs {names.count(twice[0])} times; rename all but one"
            )
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None
    return Table(data, tuple(names), rows)


def _hub_rows(
    name: str, subset: str | None, split: str, revision: str | None, most: int | None, key: str
) -> Sequence[Mapping[str, Any]]:
    import datasets

    rows: Sequence[Mapping[str, Any]]
    try:
        if most is None:
            rows = datasets.load_dataset(name, subset, split=split, revision=revision)
        else:
            rows = list(datasets.load_dataset(name, subset, split=split, revision=revision, streaming=True).take(most))
    except Exception as error:  # the library raises errors of many others
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingDataError(
            f"{key}: {name!r} is not a local file, and no data set of this name could be loaded (subset={subset}, "
            f"split={split}): {reason}. Name a local file ({', '.join(SUFFIXES)}), or fetch the data set where there "
            "is a network"
        ) from None
    return rows

"""Rows of data: a local file of any usual format, or a data set that the library ``datasets`` finds."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from regmean_lab.suites.base import DataError, MissingDataError
from regmean_lab.suites.reading import parse_lines

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")
TEXT_COLUMN = "text"
"""The only column of a file of plain text."""


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        name: what messages and records call it: the file, or the data set.
        columns: names of the columns of the first row.
        rows: the rows, in order; where each is, messages tell by :meth:`place`.
    """

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]

    def place(self, number: int) -> str:
        """Where a row is, counted from 0."""
        return f"{self.name}: row {number + 1}"


def is_file_name(data: str) -> bool:
    """Whether a name can only be that of a local file."""
    return Path(data).suffix.lower() in SUFFIXES or Path(data).expanduser().is_file()


def missing_file(data: str) -> str | None:
    """What is wrong with the name of a local file, before it is read; None for what can be read, or is no file."""
    path = Path(data).expanduser()
    if not is_file_name(data):
        return None
    if not path.is_file():
        return f"data: no such file: {path}"
    if path.suffix.lower() not in SUFFIXES:
        return f"data: {path} has the ending {path.suffix or 'of nothing'!r}; expected one of {', '.join(SUFFIXES)}"
    return None


def read_table(data: str, *, subset: str | None = None, split: str = "train", revision: str | None = None) -> Table:
    """Read a table.

    Args:
        data: a local file (see ``SUFFIXES``; ``.csv`` and ``.tsv`` with a line of column names, ``.txt`` with a text a
            line, ``.json`` with a list of objects), or what ``datasets.load_dataset`` takes as its first argument.
        subset: configuration of a data set.
        split: split of a data set.
        revision: revision of a data set on the hub.

    Raises:
        DataError: when it cannot be read, naming file and line; when it has no rows.
    """
    if problem := missing_file(data):
        raise MissingDataError(problem)
    rows = _file_rows(Path(data).expanduser()) if is_file_name(data) else _hub_rows(data, subset, split, revision)
    if not rows:
        raise DataError(f"data: {data} has no rows")
    return Table(data, tuple(str(name) for name in rows[0]), rows)


def _file_rows(path: Path) -> Sequence[Mapping[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return parse_lines(path, _json_object)
    if suffix == ".txt":
        return parse_lines(path, lambda line: {TEXT_COLUMN: line})
    if suffix == ".json":
        return _json_rows(path)
    if suffix == ".parquet":
        return _parquet_rows(path)
    return _delimited_rows(path, "," if suffix == ".csv" else "\t")


def _json_object(line: str) -> dict[str, Any]:
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object with the columns as keys, found {type(content).__name__}")
    return content


def _json_rows(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); one object a line is expected in files named .jsonl") from None
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f"{path}: expected a list of objects with the columns as keys")
    return content


def _delimited_rows(path: Path, delimiter: str) -> list[dict[str, Any]]:
    # Of tab-separated files quotes are usually text.
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
        rows = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}:{reader.line_num}: {'more' if None in row else 'fewer'} fields than the "
                        f"{len(reader.fieldnames or ())} columns of the first line"
                    )
                rows.append(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}:{reader.line_num}: {error}") from None
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None
    return rows


def _hub_rows(name: str, subset: str | None, split: str, revision: str | None) -> Sequence[Mapping[str, Any]]:
    import datasets

    try:
        rows: Sequence[Mapping[str, Any]] = datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:  # the library raises errors of many others
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingDataError(
            f"data: {name!r} is no local file, and no data set of this name could be loaded (subset={subset}, "
            f"split={split}): {reason}. Name a local file ({', '.join(SUFFIXES)}), or fetch the data set where there "
            "is a network"
        ) from None
    return rows

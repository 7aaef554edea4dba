"""Readers of the tab-separated tables in which GLUE's tasks are distributed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.prepare.base import PrepareError
from regmean_lab.suites.base import DataError
from regmean_lab.suites.glue_data import TASKS, GlueTask
from regmean_lab.suites.reading import SHOWN_ERRORS, parse_lines

Row = dict[str, Any]
"""One example: the columns that the task has on the Hugging Face hub, and ``idx``."""

MRPC_COLUMNS = {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}
MRPC_IDS = ("#1 ID", "#2 ID")
MSR_TRAIN, MSR_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")

_NOTHING: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """How one task is distributed.

    Attributes:
        folder: the task's folder; small and capital letters are not told apart.
        columns: what the table calls each of the task's columns.
        validation: file name of the validation split (of mnli, the matched one).
        header: the columns' names, for tables without a first line that holds them.
        drops_broken: whether lines with another number of columns are left out (else they are errors): in qqp a few
            questions hold a line end or a tab, and the hub's copy leaves them out as well.
    """

    folder: str
    columns: Mapping[str, str]
    validation: str = "dev.tsv"
    header: tuple[str, ...] | None = None
    drops_broken: bool = False


_PAIR = {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}
TABLES = {
    "cola": Table("CoLA", {"sentence": "sentence", "label": "label"}, header=("source", "label", "mark", "sentence")),
    "sst2": Table("SST-2", {"sentence": "sentence", "label": "label"}),
    "mrpc": Table("MRPC", MRPC_COLUMNS),
    "stsb": Table("STS-B", {**_PAIR, "label": "score"}),
    "mnli": Table(
        "MNLI",
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        validation="dev_matched.tsv",
    ),
    "qnli": Table("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}),
    "qqp": Table(
        "QQP",
        {"question1": "question1", "question2": "question2", "label": "is_duplicate"},
        drops_broken=True,
    ),
    "rte": Table("RTE", _PAIR),
    "wnli": Table("WNLI", _PAIR),
}


@dataclass(frozen=True)
class TableRows:
    """Rows of a task's two splits, and what to tell about how they came to be."""

    train: list[Row]
    validation: list[Row]
    remarks: tuple[str, ...] = ()


def task_folders(folder: Path) -> dict[str, Path]:
    """The folder of each task that lies in ``folder``, by the task's name."""
    there = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    return {name: there[table.folder.lower()] for name, table in TABLES.items() if table.folder.lower() in there}


def read_task(name: str, folder: Path) -> TableRows:
    """Read both splits of a task from its folder.

    MRPC is read from ``train.tsv`` and ``dev.tsv`` or, without them, from the two files of Microsoft's release: with
    ``dev_ids.tsv`` divided as in GLUE, and else with Microsoft's test set as validation split.

    Raises:
        PrepareError: if a file is missing.
        DataError: naming file and line of malformed lines.
    """
    table, task = TABLES[name], TASKS[name]
    train, validation = folder / "train.tsv", folder / table.validation
    if name == "mrpc" and not (train.is_file() and validation.is_file()) and (folder / MSR_TRAIN).is_file():
        return _read_msr(folder)
    if absent := [path.name for path in (train, validation) if not path.is_file()]:
        other = f" (or {MSR_TRAIN} and {MSR_TEST})" if name == "mrpc" else ""
        raise PrepareError(f"{folder} has no {' and no '.join(absent)}{other}")
    remarks = []
    splits = []
    for path in (train, validation):
        records, dropped = read_table(path, table)
        if dropped:
            remarks.append(f"{dropped} broken lines of {path} left out")
        splits.append(_rows(records, table.columns, task))
    return TableRows(splits[0], splits[1], tuple(remarks))


@dataclass(frozen=True)
class Record:
    """One line of a table: where it stands, and its values by the table's own column names."""

    place: str
    values: dict[str, str]


def read_table(path: Path, table: Table, more_columns: tuple[str, ...] = ()) -> tuple[list[Record], int]:
    """Read a table. Quotation marks are characters like others: they are not paired in these files.

    Args:
        path: the file.
        table: what it is like.
        more_columns: columns that are wanted besides the task's own.

    Returns:
        Its lines, and how many were left out as broken.

    Raises:
        DataError: naming file and line, if a column is missing or a line has too many or too few.
    """
    columns = tuple(dict.fromkeys((*table.columns.values(), *more_columns)))
    header = table.header
    absent: list[str] = []
    dropped = 0

    def parse(line: str) -> tuple[str, ...]:
        nonlocal header, absent, dropped
        fields = line.split("\t")
        if header is None:
            header = tuple(field.strip() for field in fields)
            if absent := [column for column in columns if column not in header]:
                raise ValueError(f"there is no column {', '.join(absent)}; the columns are {', '.join(header)}")
            return _NOTHING
        if absent:  # without a header that can be used, the other lines say nothing
            return _NOTHING
        if len(fields) == len(header):
            return tuple(fields[header.index(column)] for column in columns)
        if not table.drops_broken:
            raise ValueError(f"expected {len(header)} columns, separated by tabs; found {len(fields)}")
        dropped += 1
        return _NOTHING

    # One row for every line, so that a row's place is its line number.
    rows = parse_lines(path, parse, blank=_NOTHING)
    records = [
        Record(f"{path}:{number}", dict(zip(columns, row, strict=True)))
        for number, row in enumerate(rows, start=1)
        if row is not _NOTHING
    ]
    return records, dropped


def _rows(records: list[Record], columns: Mapping[str, str], task: GlueTask) -> list[Row]:
    rows: list[Row] = []
    errors = []
    for record in records:
        row: Row = {name: record.values[column] for name, column in columns.items()}
        try:
            row["label"] = task.example({**row, "label": _label(row["label"], task)}).label
        except ValueError as error:
            errors.append(f"{record.place}: {error}")
        rows.append({"idx": len(rows), **row})
    if errors:
        raise DataError("\n".join(errors[:SHOWN_ERRORS]))
    return rows


def _label(text: str, task: GlueTask) -> str | int | float:
    """A label as row formats take it: a name, an id, or the number of a regression."""
    if text in task.labels:
        return text
    try:
        return float(text) if task.is_regression else int(text)
    except ValueError:
        return text


def _read_msr(folder: Path) -> TableRows:
    table, task = TABLES["mrpc"], TASKS["mrpc"]
    train, _ = read_table(folder / MSR_TRAIN, table, MRPC_IDS)
    ids_files = [folder / name for name in DEV_IDS if (folder / name).is_file()]
    if ids_files:
        ids = set(parse_lines(ids_files[0], _parse_ids))
        in_dev = [tuple(record.values[column] for column in MRPC_IDS) in ids for record in train]
        parts = [[record for record, dev in zip(train, in_dev, strict=True) if dev == part] for part in (False, True)]
        if not all(parts):
            raise DataError(f"{ids_files[0]}: names none or all of the pairs in {folder / MSR_TRAIN}")
        return TableRows(_rows(parts[0], table.columns, task), _rows(parts[1], table.columns, task))
    if not (folder / MSR_TEST).is_file():
        raise PrepareError(f"{folder} has {MSR_TRAIN} but neither {DEV_IDS[0]} nor {MSR_TEST}")
    test, _ = read_table(folder / MSR_TEST, table)
    remark = f"without {DEV_IDS[0]} the validation split is Microsoft's test set ({len(test)} pairs), not GLUE's"
    return TableRows(_rows(train, table.columns, task), _rows(test, table.columns, task), (remark,))


def _parse_ids(line: str) -> tuple[str, ...]:
    fields = tuple(field.strip() for field in line.split("\t"))
    if len(fields) != 2:
        raise ValueError(f"expected two ids, separated by a tab; found {len(fields)} columns")
    return fields

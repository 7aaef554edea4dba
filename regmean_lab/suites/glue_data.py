"""The nine GLUE tasks and where their examples come from: a local folder, or the Hugging Face hub.

Tasks, labels and metrics are those of Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural
Language Understanding", ICLR 2019. The labels of the test splits are not public: validation splits are evaluated.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from regmean_lab.suites.base import DataError, Example, MissingDataError, Task
from regmean_lab.suites.reading import json_object, parse_lines

_logger = logging.getLogger(__name__)

HUB_NAME = "nyu-mll/glue"
HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer to whether it can be reached."""

GlueSplit = Literal["train", "validation"]
SPLITS: tuple[GlueSplit, ...] = ("train", "validation")


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        columns: columns of the sentence, or of the two sentences of a pair.
        labels: label names in the order of their ids; one name for the regression.
        key_score: the metric that is reported.
        validation: what the validation split is called.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    key_score: str = "accuracy"
    validation: str = "validation"

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number, from ``LOWEST_SIMILARITY`` to ``HIGHEST_SIMILARITY``."""
        return len(self.labels) == 1

    @property
    def task(self) -> Task:
        """The task as modules and metrics know it."""
        return Task("regression" if self.is_regression else "single_label", self.labels, self.key_score)

    def split_name(self, split: GlueSplit) -> str:
        """What a split is called in files and on the hub."""
        return self.validation if split == "validation" else split


LOWEST_SIMILARITY, HIGHEST_SIMILARITY = 0.0, 5.0
TASKS = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), "matthews"),
    "sst2": GlueTask(("sentence",), ("negative", "positive")),
    "mrpc": GlueTask(("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "stsb": GlueTask(("sentence1", "sentence2"), ("similarity",), "pearson"),
    "mnli": GlueTask(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), validation="validation_matched"
    ),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not_entailment")),
    "qqp": GlueTask(("question1", "question2"), ("not_duplicate", "duplicate")),
    "rte": GlueTask(("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "wnli": GlueTask(("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
"""All tasks by name, in the order that numbers them."""


def example_of(row: Mapping[str, Any], task: GlueTask) -> Example:
    """The example of one row; columns that the task does not use are not looked at.

    Args:
        row: the task's sentence columns, and ``label``: a number, or the label's name.
        task: the task.

    Raises:
        ValueError: saying what is wrong with the row.
    """
    names = (*task.columns, "label")
    if absent := [name for name in names if name not in row]:
        raise ValueError(f"the row has no {' and '.join(json.dumps(name) for name in absent)}")
    for name in task.columns:
        if not isinstance(row[name], str):
            raise ValueError(f'"{name}" must be a string, found {json.dumps(row[name])[:60]}')
    texts = [row[name] for name in task.columns]
    return Example(texts[0], _label(row["label"], task), texts[1] if len(texts) == 2 else None)


def _label(value: Any, task: GlueTask) -> int | float:
    if value in task.labels and not task.is_regression:
        return task.labels.index(value)
    # bool is a kind of int in Python, but true is no label id.
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if number and task.is_regression and LOWEST_SIMILARITY <= value <= HIGHEST_SIMILARITY:
        return float(value)
    if number and not task.is_regression and value in range(len(task.labels)):
        return int(value)
    if number and value == -1:
        raise ValueError('"label" is -1: the labels of test splits are hidden; expected a train or validation split')
    expected = (
        f"a number from {LOWEST_SIMILARITY:g} to {HIGHEST_SIMILARITY:g}"
        if task.is_regression
        else f"one of {', '.join(f'{number} ({name})' for number, name in enumerate(task.labels))}"
    )
    raise ValueError(f'"label" must be {expected}, found {json.dumps(value)[:60]}')


def read_rows(path: Path, task: GlueTask) -> list[Example]:
    """Read a file: one JSON object a line, with the columns that the hub's rows have.

    Raises:
        DataError: naming up to ten malformed lines, or if there is no row.
    """
    return parse_lines(path, lambda line: _parse_line(line, task))


def _parse_line(line: str, task: GlueTask) -> Example:
    return example_of(json_object(line), task)


class GlueData:
    """Examples of GLUE tasks.

    A task is read from ``<data_dir>/glue/<task>/{train,validation}.jsonl`` (of mnli, ``validation_matched.jsonl``) if
    that folder is there, and else with Hugging Face ``datasets`` from ``nyu-mll/glue``: from the hub, or without a
    network from the cache.

    Args:
        data_dir: the folder below which files lie.
    """

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "glue"
        self._read: dict[tuple[str, GlueSplit], list[Example]] = {}
        self._hashes: dict[str, str] = {}

    def missing(self, tasks: Sequence[str]) -> list[str]:
        """One message for each task that is nowhere to be had, and for each absent file of a local folder."""
        found = []
        for name in dict.fromkeys(tasks):
            if (self.folder / name).is_dir():
                paths = [self._path(name, split) for split in SPLITS]
                found += [
                    f"glue: {path} is not there, but its folder is; place it there, or remove the folder {path.parent} "
                    f"to have {name} read from {HUB_NAME}"
                    for path in paths
                    if not path.is_file()
                ]
            elif (problem := hub_problem(name)) is not None:
                found.append(self._missing_message(name, problem))
        return found

    def prepare(self, tasks: Sequence[str]) -> None:
        """Bring tasks that have no local folder from the hub into the Hugging Face cache.

        Raises:
            MissingDataError: if one can be had from neither.
        """
        for name in dict.fromkeys(tasks):
            if not (self.folder / name).is_dir():
                self.examples(name, "validation")

    def examples(self, name: str, split: GlueSplit) -> list[Example]:
        """All examples of one split, in the order of the file or of the hub.

        Raises:
            MissingDataError: if the task is nowhere to be had.
            DataError: if a row is malformed.
        """
        if (name, split) not in self._read:
            task, path = TASKS[name], self._path(name, split)
            if not path.parent.is_dir():
                self._read[name, split] = self._from_hub(name, split)
            elif path.is_file():
                self._read[name, split] = read_rows(path, task)
            else:
                raise MissingDataError("\n".join(self.missing([name])))
        return self._read[name, split]

    def content_hash(self, name: str) -> str:
        """Hash (SHA-256, hexadecimal) of all examples of a task, wherever they were read from."""
        if name not in self._hashes:
            digest = hashlib.sha256()
            for split in SPLITS:
                digest.update(f"{name} {split}\n".encode())
                for example in self.examples(name, split):
                    row = json.dumps([example.text, example.text_pair, example.label])
                    digest.update(f"{row}\n".encode())
            self._hashes[name] = digest.hexdigest()
        return self._hashes[name]

    def _path(self, name: str, split: GlueSplit) -> Path:
        return self.folder / name / f"{TASKS[name].split_name(split)}.jsonl"

    def _from_hub(self, name: str, split: GlueSplit) -> list[Example]:
        task = TASKS[name]
        if (problem := hub_problem(name)) is not None:
            raise MissingDataError(self._missing_message(name, problem))
        try:
            columns = _hub_columns(name, task.split_name(split), (*task.columns, "label"))
        except Exception as error:  # whatever datasets, the network and the disk may raise
            raise MissingDataError(self._missing_message(name, _first_line(error))) from error
        _logger.info("glue: %s %s is read from %s", name, split, HUB_NAME)
        examples = []
        for number, row in enumerate(zip(*columns.values(), strict=True)):
            try:
                examples.append(example_of(dict(zip(columns, row, strict=True)), task))
            except ValueError as error:
                raise DataError(f"{HUB_NAME}, {name}, {split}, row {number}: {error}") from None
        return examples

    def _missing_message(self, name: str, problem: str) -> str:
        files = ",".join(TASKS[name].split_name(split) for split in SPLITS)
        return (
            f"glue: task {name} is neither in {self.folder / name}/{{{files}}}.jsonl nor to be had from {HUB_NAME} "
            f"(configuration {name}): {problem}. Fetch it where there is a network: python -m regmean_lab.prepare "
            "suite=glue; or place the files there (layout: data/README.md)"
        )


def hub_problem(name: str) -> str | None:
    """Why a task cannot be had from the hub or its cache; None if it can. Downloads nothing."""
    from datasets import load_dataset_builder  # takes a second to import, and local files do without

    if (unreachable := _unreachable()) is None:
        return None
    try:
        with _cache_only():
            load_dataset_builder(HUB_NAME, name)
    except Exception as error:  # datasets raises errors of many kinds for what is not in its cache
        _logger.debug("%s is not in the cache: %s", name, error)
        return f"not in the Hugging Face cache, and the hub cannot be reached ({unreachable})"
    return None


def _hub_columns(name: str, split: str, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of one split, from the hub, or without a network from the cache."""
    from datasets import load_dataset

    if _unreachable() is None:
        rows = load_dataset(HUB_NAME, name, split=split)
    else:
        with _cache_only():
            rows = load_dataset(HUB_NAME, name, split=split)
    return {column: list(rows[column]) for column in columns}


@lru_cache(maxsize=1)
def _unreachable() -> str | None:
    """Why the hub cannot be reached, or None; asked once, for all jobs of a sweep."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(HUB_NAME, timeout=HUB_TIMEOUT)
    except Exception as error:  # the network has many ways to fail
        return _first_line(error)
    return None


@contextmanager
def _cache_only() -> Iterator[None]:
    """Have ``datasets`` look into its cache only; it would ask an unreachable hub again and again for half a minute."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")

"""The nine GLUE tasks and where their examples come from: a local folder, or the Hugging Face hub.

Tasks, labels and metrics are those of Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural
Language Understanding", ICLR 2019. The labels of the test splits are not public: validation splits are evaluated.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from regmean_lab.suites.base import DataError, Example, MissingDataError
from regmean_lab.suites.row_format import RowFormat
from regmean_lab.utils.files import sha256_of

_logger = logging.getLogger(__name__)

HUB_NAME = "nyu-mll/glue"
HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer to whether it can be reached."""

GlueSplit = Literal["train", "validation"]
SPLITS: tuple[GlueSplit, ...] = ("train", "validation")


@dataclass(frozen=True)
class GlueTask(RowFormat):
    """One task: the columns that are its sentence or its pair of sentences, its labels, and its key score.

    Attributes:
        validation: what the validation split is called.
    """

    validation: str = "validation"

    def split_name(self, split: GlueSplit) -> str:
        """What a split is called in files and on the hub."""
        return self.validation if split == "validation" else split


TASKS = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable"), "matthews"),
    "sst2": GlueTask(("sentence",), ("negative", "positive")),
    "mrpc": GlueTask(("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "stsb": GlueTask(("sentence1", "sentence2"), ("similarity",), "pearson", lowest=0.0, highest=5.0),
    "mnli": GlueTask(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), validation="validation_matched"
    ),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not_entailment")),
    "qqp": GlueTask(("question1", "question2"), ("not_duplicate", "duplicate")),
    "rte": GlueTask(("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "wnli": GlueTask(("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
"""All tasks by name, in the order that numbers them."""


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
                self._read[name, split] = task.read(path)
            else:
                raise MissingDataError("\n".join(self.missing([name])))
        return self._read[name, split]

    def content_hash(self, name: str) -> str:
        """Hash (SHA-256, hexadecimal) of all examples of a task, wherever they were read from."""
        if name not in self._hashes:
            self._hashes[name] = sha256_of(self._lines(name))
        return self._hashes[name]

    def _lines(self, name: str) -> Iterator[str]:
        """All examples of a task, one line each, and a line before each split."""
        for split in SPLITS:
            yield f"{name} {split}\n"
            for example in self.examples(name, split):
                yield json.dumps([example.text, example.text_pair, example.label]) + "\n"

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
                examples.append(task.example(dict(zip(columns, row, strict=True))))
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

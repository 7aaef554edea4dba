"""What checkpoints are scored on: files and corpora of suites, their labels matched to a checkpoint's by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from regmean_lab.suites.base import IGNORED, DataError, Example, Split, Suite, Task, TaskKind
from regmean_lab.suites.evaluations import Evaluation
from regmean_lab.suites.key_scores import KEY_SCORES, ROUGE_SCORES, key_score_problem
from regmean_lab.suites.own_labels import label_name
from regmean_lab.suites.reading import gathered
from regmean_lab.suites.tables.columns import Columns, choose_columns, examples_of
from regmean_lab.suites.tables.table import Table, is_file_name, missing_file, read_table
from regmean_lab.suites.tables.tagged_columns import TAGGED, read_tagged
from regmean_lab.suites.text_generation import FORMS
from regmean_lab.utils.files import sha256_of
from regmean_lab.utils.names import abbreviated

_GENERIC = re.compile(r"LABEL_\d+")
_NUMBER = re.compile(r"\d+")
log = logging.getLogger(__name__)


class Corpus(Protocol):
    """Examples with true labels."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its texts and labels, whatever a checkpoint's outputs are called."""

    def evaluation(self, model: Task) -> Evaluation:
        """Its examples, with labels as a checkpoint numbers them.

        Args:
            model: what the checkpoint predicts.

        Raises:
            DataError: naming what does not go together, or file and line of what cannot be read.
        """


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        text: columns of the text or of the two texts of a pair; None: the obvious ones.
        label: column of the label; None: the obvious one.
        target: column of what a language model writes; None: the obvious one of an encoder-decoder, and of a decoder
            none, which writes the text itself.
        header: of ``.csv`` and ``.tsv``, whether the first line holds the columns' names; None: it must tell itself.
        subset: configuration of a data set.
        split: split of a data set.
        revision: of a data set on the hub.
        score: the score that is reported; None: the first of :data:`~regmean_lab.suites.key_scores.KEY_SCORES`.
    """

    text: tuple[str, ...] | None = None
    label: str | None = None
    target: str | None = None
    header: bool | None = None
    subset: str | None = None
    split: str = "test"
    revision: str | None = None
    score: str | None = None


@dataclass(frozen=True)
class FileCorpus:
    """A file, or a data set that the library ``datasets`` finds.

    Attributes:
        name: what tables call it.
        data: the file, or the name of the data set.
        kind: the kind of task that it is read for.
        reading: how it is read.
        form: of a language model, one of :data:`~regmean_lab.suites.text_generation.FORMS`.
    """

    name: str
    data: str
    kind: TaskKind
    reading: Reading
    form: str = ""

    @cached_property
    def table(self) -> Table:
        """Its rows."""
        if self._is_tagged:
            return read_tagged(self.data)
        reading = self.reading
        return read_table(
            self.data,
            subset=reading.subset,
            split=reading.split,
            revision=reading.revision,
            header=reading.header,
            typed=[*(reading.text or ()), *filter(None, (reading.label, reading.target))],
        )

    @cached_property
    def columns(self) -> Columns:
        """The columns that are read."""
        reading = self.reading
        chosen = choose_columns(
            self.table,
            Task(self.kind, (self.form,), ""),
            text=reading.text,
            target=reading.target,
            label=reading.label,
            has_encoder=self.form != FORMS[1],
            needs_label=self.kind != "text",
        )
        return replace(chosen, target=reading.target) if self.form == FORMS[1] else chosen

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what is read, wherever and in whatever format it lies."""
        names = [*self.columns.text, *filter(None, (self.columns.label, self.columns.target))]
        plain = self.kind != "single_label"
        rows = (
            [row[name] if plain or name != names[-1] else label_name(row[name]) for name in names]
            for row in self.table.rows
        )
        return sha256_of(f"{row!r}\n" for row in rows)

    @property
    def missing(self) -> str | None:
        """Why there is no such file, before it is read."""
        if self._is_tagged:
            return None if Path(self.data).expanduser().is_file() else f"data: no such file: {self.data}"
        return missing_file(self.data)

    def evaluation(self, model: Task) -> Evaluation:
        """See :class:`Corpus`; labels are the names of the checkpoint's outputs, or their numbers."""
        score = self.reading.score or _default_score(model, self.columns)
        if problem := key_score_problem(score, model.kind, len(model.labels)):
            raise DataError(f"score: {problem}: {_some(model.labels)}")
        if score in ROUGE_SCORES and self.form == FORMS[1] and self.columns.target is None:
            raise DataError(f"score: {score} compares what is written with a target; name its column (target=NAME)")
        task = replace(model, key_score=score)
        table = _named_labels(self.table, self.columns, task) if self.kind == "single_label" else self.table
        return Evaluation(self.name, self.name, "in", examples_of(table, self.columns, task), task)

    @property
    def _is_tagged(self) -> bool:
        return self.kind == "token_labels" and Path(self.data).suffix.lower() in TAGGED


@dataclass(frozen=True)
class SuiteCorpus:
    """One split of a corpus of a suite.

    Attributes:
        name: the corpus.
        suite: the suite.
        split: ``test``, or ``dev``.
    """

    name: str
    suite: Suite
    split: Split

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the corpus and the settings that choose examples."""
        return sha256_of([self.suite.name, self.suite.fingerprint(self.name), self.split])

    def evaluation(self, model: Task) -> Evaluation:
        """See :class:`Corpus`."""
        task = self.suite.task(self.name)
        examples = self.suite.examples(self.name, self.split)
        if not examples:
            raise DataError(f"{self.name}: no examples in its {self.split} split")
        if task.kind == "answers" and model.kind == "text":
            return Evaluation(self.name, self.name, "in", examples, task)
        if task.kind == model.kind == "text" and task.labels != model.labels:
            raise DataError(f"{self.name} is for suite.form={task.labels[0]}; the checkpoint is {model.labels[0]}")
        if task.kind != model.kind:
            raise DataError(f"{self.name} is {KIND_NAMES[task.kind]}; the checkpoint is {KIND_NAMES[model.kind]}")
        if task.kind == "regression":
            return Evaluation(self.name, self.name, "in", examples, task)
        labels = model.labels
        if all(map(_GENERIC.fullmatch, labels)) and len(labels) == len(task.labels):
            log.warning(
                "%s: config.json names the outputs %s only; they are taken to be %s, in this order",
                *(self.name, abbreviated(labels), _some(task.labels)),
            )
            labels = task.labels
        if absent := [label for label in task.labels if label not in labels]:
            raise DataError(
                f"{self.name} has labels that the checkpoint does not predict: {abbreviated(absent)}; it predicts "
                f"{_some(labels)} (labels=[…] names the outputs in their order)"
            )
        numbers = [labels.index(label) for label in task.labels]
        own = [_renumbered(example, numbers, len(labels)) for example in examples]
        return Evaluation(self.name, self.name, "in", own, replace(task, labels=labels))


KIND_NAMES: Mapping[TaskKind, str] = {
    "single_label": "a classification of texts",
    "multi_label": "a classification of texts with any number of labels",
    "regression": "a regression of texts",
    "token_labels": "a tagging of words",
    "answers": "a set of questions that are answered in words",
    "text": "a language model",
}
"""What messages call the kinds of task."""


def kind_problem(name: str, kind: TaskKind) -> str | None:
    """Why a checkpoint cannot be scored on a file; None if it can."""
    if kind in KEY_SCORES:
        return None
    return (
        f"{name}: {KIND_NAMES[kind]}, and files hold labels or texts to write; score it on a suite of such questions: "
        "suite=emotion_text"
    )


def datasets_of_the_hub(corpora: Sequence[Corpus]) -> dict[str, dict[str, str]]:
    """By corpus, of those that are data sets and no files: name, configuration, split and revision, as far as given."""
    found = {}
    for corpus in corpora:
        if not isinstance(corpus, FileCorpus) or is_file_name(corpus.data) or Path(corpus.data).expanduser().exists():
            continue
        reading = corpus.reading
        told = {"type": corpus.data, "config": reading.subset, "split": reading.split, "revision": reading.revision}
        found[corpus.name] = {key: value for key, value in told.items() if value is not None}
    return found


def _default_score(task: Task, columns: Columns) -> str:
    if task.kind == "text" and columns.target is None:
        return "token_accuracy"  # nobody expects a model to write whole texts out of nothing
    if task.kind == "token_labels" and "O" not in task.labels:
        return "token_accuracy"
    return KEY_SCORES[task.kind][0]


def _renumbered(example: Any, numbers: Sequence[int], count: int) -> Any:
    """An example of a suite with its label as the checkpoint numbers it; tags are names, and stay."""
    if not isinstance(example, Example):
        return example
    if isinstance(example.label, tuple):
        values = [IGNORED] * count
        for number, value in zip(numbers, example.label, strict=True):
            values[number] = value
        return replace(example, label=tuple(values))
    return replace(example, label=numbers[int(example.label)])


def _named_labels(table: Table, columns: Columns, task: Task) -> Table:
    """The table with the names of labels written alike: ``1``, ``1.0`` and ``"1"`` are one name.

    A number that is no name is the number of an output, unless outputs are named by numbers: of labels ``1`` to ``5``,
    2 is the second, and 0 none.
    """
    key, numbered = str(columns.label), any(_NUMBER.fullmatch(label) for label in task.labels)
    rows, wrong, by_number = [], [], set()
    for place, row in enumerate(table.rows):
        name = label_name(row[key]) if key in row else None
        if name is not None and name not in task.labels and _NUMBER.fullmatch(name):
            if numbered:
                wrong.append((table.number(place), f"{key}: expected one of {_some(task.labels)}, found {name}"))
            by_number.add(name)
        rows.append(row if name is None else {**row, key: name})
    if wrong:
        raise DataError(gathered(table.place, wrong, what="rows"))
    if by_number and not all(map(_GENERIC.fullmatch, task.labels)):
        log.warning(
            "%s: its labels are numbers (%s), taken as those of the checkpoint's outputs: %s",
            *(
                table.name,
                abbreviated(sorted(by_number)),
                ", ".join(f"{n} {label}" for n, label in enumerate(task.labels[:5])),
            ),
        )
    return replace(table, rows=rows)


def _some(labels: Sequence[str]) -> str:
    return abbreviated(labels, 20)

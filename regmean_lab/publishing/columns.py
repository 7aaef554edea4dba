"""Which columns of a table a model reads, and the examples that they make."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regmean_lab.publishing.tables import Table
from regmean_lab.suites.base import IGNORED, DataError, Example, Task
from regmean_lab.suites.conll import TokenExample
from regmean_lab.suites.text_encoding import TextExample

PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXTS = ("text", "sentence", "content", "review", "document", "tweet", "comment", "premise", "question")
WORDS = ("tokens", "words", "text", "sentence")
SOURCES = ("text", "source", "input", "document", "article", "dialogue", "question")
TARGETS = ("target", "summary", "highlights", "answer", "output", "labels", "label")
LABELS = ("label", "labels", "ner_tags", "tags", "score")

SHOWN_ERRORS = 10


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        text: one column, or two of a pair of texts.
        target: what an encoder-decoder writes.
        label: the label, where labels are needed.
    """

    text: tuple[str, ...]
    target: str | None = None
    label: str | None = None


def choose_columns(
    table: Table,
    task: Task,
    *,
    text: Sequence[str] | None,
    target: str | None,
    label: str | None,
    has_encoder: bool,
    needs_label: bool,
) -> Columns:
    """The columns that are named, and for those that are not the obvious ones.

    Args:
        table: the data.
        task: what the model predicts.
        text: one column or two, or None.
        target: what an encoder-decoder writes, or None.
        label: the label, or None.
        has_encoder: of a language model, whether it has an encoder.
        needs_label: whether labels are read.

    Raises:
        DataError: for a column that there is not, or that is not obvious; names all that there are.
    """
    found: list[str] = []
    named = [("text", name) for name in text or ()] + [("target", target), ("label", label)]
    for key, name in named:
        if name is not None and name not in table.columns:
            found.append(f"{key}: there is no column {name!r}")
    chosen = tuple(text or ()) or _guess_text(table, task, has_encoder)
    writes = task.kind == "text" and has_encoder
    if not chosen:
        found.append("text: which column holds the texts is not obvious; name it (or two, of a pair) with text=")
    elif len(chosen) > (2 if task.kind in ("single_label", "multi_label", "regression") else 1):
        found.append(f"text: expected one column for this model, got {', '.join(chosen)}")
    if writes and target is None:
        target = next((name for name in TARGETS if name in table.columns and name not in chosen), None)
        if target is None:
            found.append("target: which column holds the texts that the model writes is not obvious; name it")
    if needs_label and label is None:
        label = next((name for name in LABELS if name in table.columns and name not in chosen), None)
        if label is None:
            found.append("label: which column holds the labels is not obvious; name it with label=")
    if found:
        raise DataError("\n".join([*found, f"{table.name} has the columns {', '.join(table.columns)}"]))
    return Columns(chosen, target if writes else None, label if needs_label else None)


def _guess_text(table: Table, task: Task, has_encoder: bool) -> tuple[str, ...]:
    names = set(table.columns)
    if task.kind in ("single_label", "multi_label", "regression"):
        for pair in PAIRS:
            if names.issuperset(pair):
                return pair
    usual = WORDS if task.kind == "token_labels" else SOURCES if task.kind == "text" and has_encoder else TEXTS
    for name in usual:
        if name in names:
            return (name,)
    texts = [name for name in table.columns if isinstance(table.rows[0][name], str)]
    return (texts[0],) if len(texts) == 1 else ()


def examples_of(table: Table, columns: Columns, task: Task) -> list[Any]:
    """The examples of a table, in the form that the encoding of the task's kind takes.

    Where labels are not needed, examples have placeholders that nothing reads.

    Raises:
        DataError: naming up to ten rows and what is wrong with them.
    """
    make = _MAKERS.get(task.kind, _whole_text)
    examples, errors = [], []
    for number, row in enumerate(table.rows):
        try:
            examples.append(make(row, columns, task))
        except (KeyError, ValueError) as error:
            reason = f"has no column {error}" if isinstance(error, KeyError) else str(error)
            errors.append(f"{table.place(number)}: {reason}")
    if errors:
        more = [f"... and {len(errors) - SHOWN_ERRORS} more rows"] if len(errors) > SHOWN_ERRORS else []
        raise DataError("\n".join(errors[:SHOWN_ERRORS] + more))
    return examples


def examples_fingerprint(examples: Sequence[Any]) -> str:
    """Hash (SHA-256, hexadecimal) of examples: of their content and order, not of where they were read."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example!r}\n".encode())
    return digest.hexdigest()


def _whole_text(row: Mapping[str, Any], columns: Columns, task: Task) -> Example:
    texts = [_text(row, name) for name in columns.text]
    label: Any
    if columns.label is None:
        label = {"multi_label": (0,) * len(task.labels), "regression": 0.0}.get(task.kind, 0)
    elif task.kind == "regression":
        label = _number(row[columns.label], columns.label)
    elif task.kind == "multi_label":
        label = _label_vector(row[columns.label], columns.label, task.labels)
    else:
        label = _label_number(row[columns.label], columns.label, task.labels)
    return Example(texts[0], label, texts[1] if len(texts) == 2 else None)


def _words(row: Mapping[str, Any], columns: Columns, task: Task) -> TokenExample:
    value = row[columns.text[0]]
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words) or not words:
        raise ValueError(f"{columns.text[0]}: expected words, found {value!r:.60}")
    if columns.label is None:
        return TokenExample(tuple(words), (task.labels[0],) * len(words))
    tags = row[columns.label]
    if not isinstance(tags, Sequence) or isinstance(tags, str) or len(tags) != len(words):
        raise ValueError(f"{columns.label}: expected a label for each of the {len(words)} words, found {tags!r:.60}")
    numbers = [_label_number(tag, columns.label, task.labels) for tag in tags]
    return TokenExample(tuple(words), tuple(task.labels[number] for number in numbers))


def _written(row: Mapping[str, Any], columns: Columns, task: Task) -> TextExample:
    return TextExample(_text(row, columns.text[0]), None if columns.target is None else _text(row, columns.target))


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := row[name], str):
        raise ValueError(f"{name}: expected a text, found {value!r:.60}")
    return value


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a number, found {value!r:.60}") from None


def _label_number(value: Any, name: str, labels: Sequence[str]) -> int:
    """The number of a label that is given by its name or, also as text, by its number."""
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, int) and 0 <= number < len(labels):
        return int(number)
    raise ValueError(f"{name}: expected one of {', '.join(labels)}, or its number, found {value!r:.60}")


def _label_vector(value: Any, name: str, labels: Sequence[str]) -> tuple[int, ...]:
    """0, 1 or ``IGNORED`` for each label: given as such, or as the names of the labels that are there."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name}: expected a list of labels, found {value!r:.60}")
    if all(isinstance(part, str) for part in value):
        there = {_label_number(part, name, labels) for part in value}
        return tuple(int(number in there) for number in range(len(labels)))
    if len(value) != len(labels) or any(part not in (0, 1, IGNORED) for part in value):
        raise ValueError(f"{name}: expected 0, 1 or {IGNORED} for each of {len(labels)} labels, found {value!r:.60}")
    return tuple(int(part) for part in value)


_MAKERS: dict[str, Callable[[Mapping[str, Any], Columns, Task], Any]] = {"token_labels": _words, "text": _written}

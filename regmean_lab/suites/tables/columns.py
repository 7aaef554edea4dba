"""Which columns of a table a model reads, and the examples that they make."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regmean_lab.suites.base import IGNORED, DataError, Example, Task
from regmean_lab.suites.conll import TokenExample
from regmean_lab.suites.conversations import contents, written_conversation
from regmean_lab.suites.reading import gathered
from regmean_lab.suites.tables.column_names import (
    CHOICES,
    CONVERSATIONS,
    LABELS,
    MORE_PAIRS,
    PAIRS,
    SOURCES,
    TARGETS,
    TEXTS,
    WORDS,
    find_column,
    public_name,
)
from regmean_lab.suites.tables.table import Table
from regmean_lab.suites.tables.written_lists import written_list
from regmean_lab.utils.files import sha256_of

_log = logging.getLogger(__name__)

MISSING_MARKS = frozenset(("na", "n/a", "nan", "null", "none", "#n/a"))
"""What programs write, in small or capital letters, where there is no text."""

SHOWN_LABELS = 20

PAIRED = ("single_label", "multi_label", "regression", "unlabelled")
"""Kinds of task whose texts may be two columns."""

SEPARATE = ("texts",)
"""Of tasks without labels: each column is a text of its own, as for embeddings."""

_WHOLE_NUMBER = re.compile(r"\d{1,18}(?:\.0*)?")
_FRACTION = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")


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
    elif len(chosen) > (2 if task.kind in PAIRED else 1):
        found.append(f"text: expected one column for this model, got {', '.join(chosen)}")
    elif len(chosen) == 1 and task.kind == "unlabelled" and task.labels != SEPARATE:
        pair = "question and context" if task.labels == ("pairs",) else "context and choices"
        found.append(f"text: expected two columns for this model ({pair}), got {chosen[0]}")
    if writes and target is None:
        target = _guess(table, TARGETS, chosen)
        if target is None:
            found.append("target: which column holds the texts that the model writes is not obvious; name it")
    if needs_label and label is None:
        label = _guess(table, LABELS, chosen)
        if label is None:
            found.append("label: which column holds the labels is not obvious; name it with label=")
    if found:
        raise DataError("\n".join([*found, f"{table.name} has the columns {', '.join(table.columns)}"]))
    return Columns(chosen, target if writes else None, label if needs_label else None)


def is_missing(text: str) -> bool:
    """Whether a text is empty, or what programs write where there is none."""
    return text.casefold() in {"", *MISSING_MARKS}


def public_names(table: Table, columns: Columns, typed: Sequence[str]) -> dict[str, str]:
    """What is published of the names of the columns that are read, by name: never what could be a text of the data.

    Args:
        table: the data.
        columns: the columns that are read.
        typed: names that the user gave.
    """
    used = [name for name in (*columns.text, columns.target, columns.label) if name is not None]
    return {name: public_name(name, table.columns, table.keyed or name in typed) for name in used}


def _guess(table: Table, usual: Sequence[str], taken: Sequence[str] = ()) -> str | None:
    """The first of some usual names that a column has; exact names come before those in other letters."""
    exact = [name for name in usual if name in table.columns]
    alike = [found for name in usual if (found := find_column(table.columns, name)) is not None]
    return next((name for name in (*exact, *alike) if name not in taken), None)


def _guess_text(table: Table, task: Task, has_encoder: bool) -> tuple[str, ...]:
    if task.kind in PAIRED:
        pairs = (*PAIRS, *MORE_PAIRS) if task.kind in ("regression", "unlabelled") else PAIRS
        for pair in CHOICES if task.labels == ("choices",) else pairs:
            first, second = (find_column(table.columns, name) for name in pair)
            if first is not None and second is not None:
                return (first, second)
    usual: tuple[str, ...] = WORDS if task.kind == "token_labels" else TEXTS
    if task.kind == "text":
        usual = SOURCES if has_encoder else (*TEXTS, *CONVERSATIONS)
    if (found := _guess(table, usual)) is not None:
        return (found,)
    texts = [name for name in table.columns if isinstance(table.rows[0].get(name), str)]
    return (texts[0],) if len(texts) == 1 else ()


def examples_of(table: Table, columns: Columns, task: Task) -> list[Any]:
    """The examples of a table, in the form that the encoding of the task's kind takes.

    Where labels are not needed, examples have placeholders that nothing reads. Rows whose text is empty, or a mark of a
    missing value, are kept and counted in a warning.

    Raises:
        DataError: naming up to ten kinds of rows and what is wrong with them; when all texts are empty.
    """
    make = _MAKERS.get(task.kind, _whole_text)
    examples: list[Any] = []
    errors: list[tuple[int, str]] = []
    for number, row in enumerate(table.rows):
        try:
            made = make(row, columns, task)
            examples += made if isinstance(made, list) else [made]
        except KeyError as error:
            errors.append((table.number(number), f"has no column {error}"))
        except ValueError as error:
            errors.append((table.number(number), str(error)))
    if errors:
        raise DataError(gathered(table.place, errors, what="rows"))
    empty, marked = [], []
    for number, row in enumerate(table.rows):
        texts = [text.strip() for name in columns.text for text in _texts_of(row[name], task)]
        if not any(texts):
            empty.append(number)
        elif len(texts) == 1 and is_missing(texts[0]):
            marked.append(number)
    if len(empty) == len(table.rows):
        raise DataError(f"{table.name}: all texts are empty")
    for numbers, what in ((empty, "are empty"), (marked, "are a mark of a missing value, such as NA or null")):
        if numbers:
            _log.warning(
                "%s: %d of %d texts %s (the first: %s); they are read as they are. Leave such rows out of the data",
                table.name,
                len(numbers),
                len(table.rows),
                what,
                table.place(table.number(numbers[0])),
            )
    return examples


def _texts_of(value: Any, task: Task) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif task.kind == "text":
        yield from contents(value)
    else:
        yield from value


def examples_fingerprint(examples: Sequence[Any]) -> str:
    """Hash (SHA-256, hexadecimal) of examples: of their content and order, not of where they were read."""
    return sha256_of(f"{example!r}\n" for example in examples)


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


def _unlabelled(row: Mapping[str, Any], columns: Columns, task: Task) -> list[Example]:
    """What is read of a row: its texts one by one, the pair, or the first text with each choice."""
    first = _text(row, columns.text[0])
    if task.labels == SEPARATE:
        return [Example(_text(row, name), 0) for name in columns.text]
    if task.labels == ("pairs",):
        return [Example(first, 0, _text(row, columns.text[1]))]
    name = columns.text[1]
    choices = _list(row[name], name, "a list of choices")
    if choices is None:
        raise ValueError(f"{name}: expected a list of choices, found {_shown(row[name])}")
    if not choices or any(not isinstance(choice, str) for choice in choices):
        raise ValueError(f"{name}: expected choices that are texts, found {_shown(row[name])}")
    return [Example(first, 0, choice) for choice in choices]


def _words(row: Mapping[str, Any], columns: Columns, task: Task) -> TokenExample:
    name = columns.text[0]
    words = _list(row[name], name, "words")
    if words is None:
        words = row[name].split()
    if wrong := [position for position, word in enumerate(words) if not isinstance(word, str)]:
        raise ValueError(f"{name}: expected words, found {_shown(words[wrong[0]])} as word {wrong[0] + 1}")
    if not words:
        raise ValueError(f"{name}: expected words, found none")
    if columns.label is None:
        return TokenExample(tuple(words), (task.labels[0],) * len(words))
    tags = _list(row[columns.label], columns.label, "labels")
    if tags is None or len(tags) != len(words):
        found = _shown(row[columns.label]) if tags is None else f"{len(tags)} labels"
        raise ValueError(f"{columns.label}: expected a label for each of the {len(words)} words, found {found}")
    numbers = [_label_number(tag, columns.label, task.labels) for tag in tags]
    return TokenExample(tuple(words), tuple(task.labels[number] for number in numbers))


def _list(value: Any, name: str, what: str) -> list[Any] | None:
    """A list, also one that is written as text; None of another text."""
    if isinstance(value, str):
        try:
            return written_list(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name}: expected {what}, found {_shown(value)}")
    return list(value)


def _written(row: Mapping[str, Any], columns: Columns, task: Task) -> Any:
    # Imports torch, which the command's help does without.
    from regmean_lab.suites.text_encoding import Conversation, PromptedText, TextExample

    name = columns.text[0]
    if (conversation := written_conversation(row[name], name)) is not None:
        if columns.target is not None:
            raise ValueError(
                f"{name}: messages hold what is read and what is written, and are read by decoders; with the target "
                f"{columns.target} expected a text"
            )
        return Conversation(conversation)
    made = PromptedText if task.labels == ("causal",) and columns.target is not None else TextExample
    return made(_text(row, columns.text[0]), None if columns.target is None else _text(row, columns.target))


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(value := row[name], str):
        raise ValueError(f"{name}: expected a text, found {_shown(value)}")
    return value


def _number(value: Any, name: str) -> float:
    text = value.strip() if isinstance(value, str) else ""
    # bool is a kind of int in Python, but true is no number.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number or _FRACTION.fullmatch(text)) or not math.isfinite(number := float(text or value)):
        raise ValueError(f"{name}: expected a number, found {_shown(value)}")
    return number


def _label_number(value: Any, name: str, labels: Sequence[str]) -> int:
    """The number of a label that is given by its name or, also as text or as a float, by its number."""
    text = value.strip() if isinstance(value, str) else str(value) if isinstance(value, bool) else ""
    for exact in (value, text):
        if isinstance(exact, str) and exact in labels:
            return labels.index(exact)
    number = float(text) if _WHOLE_NUMBER.fullmatch(text) else value
    if isinstance(number, int | float) and not isinstance(number, bool) and number in range(len(labels)):
        return int(number)
    raise ValueError(
        f"{name}: expected one of {_some(labels)}, or its number from 0, found {_shown(value)}"
        + _remedy(value, text, labels)
    )


def _remedy(value: Any, text: str, labels: Sequence[str]) -> str:
    """What to do about a label that is none, where it is plain what happened."""
    if near := [label for label in labels if text and label.casefold() == text.casefold()]:
        return f"; did you mean {near[0]}?"
    if isinstance(value, int | float) and value in (-1, IGNORED) and not isinstance(value, bool):
        return ": no label is known; leave such rows out of the data"
    if isinstance(value, bool):
        return "; write the name or the number of a label"
    missing = is_missing(text) if isinstance(value, str) else value is None or value != value
    if missing:
        return "; a row without a label has to be left out of the data"
    return ""


def _label_vector(value: Any, name: str, labels: Sequence[str]) -> tuple[int, ...]:
    """0, 1 or ``IGNORED`` for each label: given as such, or as the names of the labels that are there."""
    parts = _list(value, name, "a list of labels")
    if parts is None:
        raise ValueError(f"{name}: expected a list of labels, found {_shown(value)}")
    if all(isinstance(part, str) for part in parts):
        there = {_label_number(part, name, labels) for part in parts}
        return tuple(int(number in there) for number in range(len(labels)))
    if len(parts) != len(labels) or any(part not in (0, 1, IGNORED) for part in parts):
        raise ValueError(f"{name}: expected 0, 1 or {IGNORED} for each of {len(labels)} labels, found {_shown(value)}")
    return tuple(int(part) for part in parts)


def _some(labels: Sequence[str]) -> str:
    return ", ".join([*labels[:SHOWN_LABELS], *(["…"] if len(labels) > SHOWN_LABELS else [])])


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


_MAKERS: dict[str, Callable[[Mapping[str, Any], Columns, Task], Any]] = {
    "token_labels": _words,
    "text": _written,
    "unlabelled": _unlabelled,
}

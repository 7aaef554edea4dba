from __future__ import annotations

from typing import Any

import pytest

from regmean_lab.publishing.columns import Columns, choose_columns, examples_fingerprint, examples_of
from regmean_lab.publishing.tables import Table
from regmean_lab.suites.base import IGNORED, DataError, Example, Task
from regmean_lab.suites.conll import TokenExample
from regmean_lab.suites.text_encoding import TextExample

CLASSES = Task("single_label", ("neg", "pos"), "loss")
SEVERAL = Task("multi_label", ("joy", "fear", "love"), "loss")
NUMBER = Task("regression", ("score",), "loss")
TAGS = Task("token_labels", ("O", "B-PER"), "loss")
TEXT = Task("text", (), "loss")


def table(*rows: dict[str, Any]) -> Table:
    return Table("data.csv", tuple(rows[0]), rows)


def chosen(rows: Table, task: Task, **given: Any) -> Columns:
    options: dict[str, Any] = {"text": None, "target": None, "label": None, "has_encoder": False, "needs_label": False}
    return choose_columns(rows, task, **{**options, **given})


@pytest.mark.parametrize(
    ("columns", "task", "given", "expected"),
    [
        ("id text label", CLASSES, {}, Columns(("text",))),
        ("id text label", CLASSES, {"needs_label": True}, Columns(("text",), label="label")),
        (
            "sentence1 sentence2 score",
            NUMBER,
            {"needs_label": True},
            Columns(("sentence1", "sentence2"), label="score"),
        ),
        ("premise hypothesis label", CLASSES, {}, Columns(("premise", "hypothesis"))),
        ("premise hypothesis label", CLASSES, {"text": ["hypothesis"]}, Columns(("hypothesis",))),
        ("tokens ner_tags", TAGS, {"needs_label": True}, Columns(("tokens",), label="ner_tags")),
        ("document summary", TEXT, {"has_encoder": True}, Columns(("document",), target="summary")),
        ("a b", TEXT, {"has_encoder": True, "text": ["b"], "target": "a"}, Columns(("b",), target="a")),
        ("text summary", TEXT, {}, Columns(("text",))),
    ],
)
def test_obvious_columns_are_found_and_named_ones_taken(
    columns: str, task: Task, given: dict[str, Any], expected: Columns
) -> None:
    assert chosen(table(dict.fromkeys(columns.split(), "x")), task, **given) == expected


def test_the_only_column_with_texts_is_obvious() -> None:
    assert chosen(table({"id": 7, "utterance": "hello", "label": 1}), CLASSES) == Columns(("utterance",))


@pytest.mark.parametrize(
    ("task", "given", "messages"),
    [
        (CLASSES, {}, ["text: which column holds the texts is not obvious"]),
        (CLASSES, {"text": ["c", "a"]}, ["text: there is no column 'c'"]),
        (CLASSES, {"text": ["a"], "needs_label": True}, ["label: which column holds the labels is not obvious"]),
        (CLASSES, {"text": ["a"], "label": "tag", "needs_label": True}, ["label: there is no column 'tag'"]),
        (TEXT, {"has_encoder": True}, ["text: which column", "target: which column"]),
        (TEXT, {"text": ["a", "b"]}, ["text: expected one column for this model, got a, b"]),
    ],
)
def test_what_is_not_obvious_is_told_with_all_columns(task: Task, given: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(DataError) as raised:
        chosen(table({"a": "x", "b": "y"}), task, **given)
    *lines, last = str(raised.value).splitlines()
    assert last == "data.csv has the columns a, b"
    assert len(lines) == len(messages)
    assert all(line.startswith(message) for line, message in zip(lines, messages, strict=True))


@pytest.mark.parametrize(
    ("task", "columns", "row", "expected"),
    [
        (CLASSES, Columns(("a",)), {"a": "hi"}, Example("hi", 0)),
        (CLASSES, Columns(("a", "b"), label="l"), {"a": "hi", "b": "you", "l": "pos"}, Example("hi", 1, "you")),
        (CLASSES, Columns(("a",), label="l"), {"a": "hi", "l": "1"}, Example("hi", 1)),
        (SEVERAL, Columns(("a",), label="l"), {"a": "hi", "l": ["love", "joy"]}, Example("hi", (1, 0, 1))),
        (SEVERAL, Columns(("a",), label="l"), {"a": "hi", "l": [0, 1, IGNORED]}, Example("hi", (0, 1, IGNORED))),
        (SEVERAL, Columns(("a",)), {"a": "hi"}, Example("hi", (0, 0, 0))),
        (NUMBER, Columns(("a",), label="l"), {"a": "hi", "l": "2.5"}, Example("hi", 2.5)),
        (TAGS, Columns(("a",), label="l"), {"a": ["I", "Bo"], "l": [0, 1]}, TokenExample(("I", "Bo"), ("O", "B-PER"))),
        (TAGS, Columns(("a",)), {"a": "I  Bo"}, TokenExample(("I", "Bo"), ("O", "O"))),
        (TEXT, Columns(("a",), target="b"), {"a": "hi", "b": "you"}, TextExample("hi", "you")),
        (TEXT, Columns(("a",)), {"a": "hi"}, TextExample("hi")),
    ],
)
def test_rows_become_examples(task: Task, columns: Columns, row: dict[str, Any], expected: Any) -> None:
    assert examples_of(table(row), columns, task) == [expected]


@pytest.mark.parametrize(
    ("task", "columns", "row", "message"),
    [
        (CLASSES, Columns(("a",)), {"a": None}, "row 2: a: expected a text, found None"),
        (CLASSES, Columns(("a",)), {"b": "x"}, "row 2: has no column 'a'"),
        (CLASSES, Columns(("a",), label="l"), {"a": "x", "l": "good"}, "l: expected one of neg, pos, or its number"),
        (CLASSES, Columns(("a",), label="l"), {"a": "x", "l": 2}, "l: expected one of neg, pos.*found 2"),
        (SEVERAL, Columns(("a",), label="l"), {"a": "x", "l": [1, 0]}, "expected 0, 1 or -100 for each of 3 labels"),
        (SEVERAL, Columns(("a",), label="l"), {"a": "x", "l": "joy"}, "expected a list of labels"),
        (NUMBER, Columns(("a",), label="l"), {"a": "x", "l": "much"}, "l: expected a number, found 'much'"),
        (TAGS, Columns(("a",)), {"a": ""}, "a: expected words"),
        (TAGS, Columns(("a",), label="l"), {"a": ["x"], "l": [0, 1]}, "expected a label for each of the 1 words"),
    ],
)
def test_rows_that_do_not_fit_are_told(task: Task, columns: Columns, row: dict[str, Any], message: str) -> None:
    sound = {"a": ["x"], "l": [0]} if task is TAGS else {"a": "x", "l": {SEVERAL: [1, 0, 0]}.get(task, 0)}
    with pytest.raises(DataError, match=message) as raised:
        examples_of(table(sound, row), columns, task)
    assert str(raised.value).startswith("data.csv: row 2: ")


def test_of_many_errors_ten_are_shown() -> None:
    with pytest.raises(DataError) as raised:
        examples_of(table(*[{"a": None}] * 25), Columns(("a",)), CLASSES)
    assert len(str(raised.value).splitlines()) == 11
    assert str(raised.value).endswith("... and 15 more rows")


def test_the_fingerprint_is_of_content_and_order() -> None:
    one, other = Example("a", 0), Example("b", 0)
    prints = [examples_fingerprint(part) for part in ([one, other], [other, one], [one], [Example("a", 1), other])]
    assert len(set(prints)) == 4
    assert examples_fingerprint([Example("a", 0), Example("b", 0)]) == prints[0]

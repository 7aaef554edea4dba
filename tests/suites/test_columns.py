from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmean_lab.suites.base import IGNORED, DataError, Example, Task
from regmean_lab.suites.conll import TokenExample
from regmean_lab.suites.tables.columns import (
    Columns,
    choose_columns,
    examples_fingerprint,
    examples_of,
    public_names,
)
from regmean_lab.suites.tables.table import Table
from regmean_lab.suites.tables.written_lists import written_list
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
        examples_of(table(*[{"a": number} for number in range(25)]), Columns(("a",)), CLASSES)
    assert len(str(raised.value).splitlines()) == 11
    assert str(raised.value).endswith("... and 15 more rows")


def test_errors_of_one_kind_are_one_line() -> None:
    with pytest.raises(DataError) as raised:
        examples_of(table(*[{"a": None}] * 25), Columns(("a",)), CLASSES)
    assert str(raised.value) == "data.csv: row 1: a: expected a text, found None (also on 24 more rows: 2, 3, 4, 5, …)"


@pytest.mark.parametrize(
    "written",
    [
        "['EU', \"o'clock\", 'a, b', '(c]', 'd\\\\e']",
        json.dumps(["EU", "o'clock", "a, b", "(c]", "d\\e"]),
        "('EU', \"o'clock\", 'a, b', '(c]', 'd\\\\e',)",
        " [ 'EU' ,\"o'clock\",'a, b', '(c]', 'd\\\\e' , ]\n",
    ],
)
def test_lists_that_are_written_as_text_are_read(written: str) -> None:
    words = ("EU", "o'clock", "a, b", "(c]", "d\\e")
    assert examples_of(table({"a": written, "l": "[0, 1, 0, 1.0, 0]"}), Columns(("a",), label="l"), TAGS) == [
        TokenExample(words, ("O", "B-PER", "O", "B-PER", "O"))
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=6))
def test_a_list_as_python_or_json_writes_it_is_that_list(words: list[str]) -> None:
    assert written_list(str(words)) == words
    assert written_list(str(tuple(words))) == words
    assert written_list(json.dumps(words)) == words


@pytest.mark.parametrize(
    "written",
    [
        "['EU' 'rejects']",
        "['EU'\n 'rejects']",
        "[EU, rejects]",
        "[['EU'], ['rejects']]",
        "['EU', None]",
        "['EU', nan]",
        "['a'] + ['b']",
        "[__import__('os').getcwd()]",
        "['unclosed]",
        "array(['EU', 'rejects'], dtype=object)",
        r'["\ud83d"]',
    ],
)
def test_lists_that_cannot_be_read_are_never_cut_at_blanks(written: str) -> None:
    with pytest.raises(
        DataError, match=r"data\.csv: row 1: a: (a list that is written as text|.*half of a char|expected words)"
    ):
        examples_of(table({"a": written}), Columns(("a",)), TAGS)


def test_a_text_in_parentheses_is_a_text() -> None:
    assert written_list("(laughs) and so on") is None
    assert written_list("He said ['x']") is None


@pytest.mark.parametrize(
    ("value", "number"), [(1.0, 1), ("1.0", 1), (" 1", 1), ("pos ", 1), ("0", 0), (True, None), ("True", None)]
)
def test_numbers_of_labels(value: Any, number: int | None) -> None:
    rows = table({"a": "x", "l": value})
    if number is None:
        with pytest.raises(DataError, match="expected one of neg, pos, or its number from 0, found"):
            examples_of(rows, Columns(("a",), label="l"), CLASSES)
    else:
        assert examples_of(rows, Columns(("a",), label="l"), CLASSES) == [Example("x", number)]


def test_labels_named_true_and_false() -> None:
    task = Task("single_label", ("False", "True"), "loss")
    assert examples_of(table({"a": "x", "l": True}), Columns(("a",), label="l"), task) == [Example("x", 1)]


@pytest.mark.parametrize(
    ("task", "value", "remedy"),
    [
        (CLASSES, -1, "found -1: no label is known"),
        (CLASSES, None, "found None; a row without a label"),
        (CLASSES, math.nan, "found nan; a row without a label"),
        (CLASSES, "", "found ''; a row without a label"),
        (CLASSES, "Pos", "found 'Pos'; did you mean pos"),
        (CLASSES, 0.5, "found 0.5$"),
        (CLASSES, "9" * 400, "found '999"),
        (CLASSES, [1], r"found \[1\]$"),
        (NUMBER, "nan", "expected a number, found 'nan'"),
        (NUMBER, math.inf, "expected a number, found inf"),
        (NUMBER, True, "expected a number, found True"),
        (NUMBER, "1_0", "expected a number, found '1_0'"),
        (NUMBER, None, "expected a number, found None"),
    ],
)
def test_labels_that_are_none(task: Task, value: Any, remedy: str) -> None:
    with pytest.raises(DataError, match=rf"data\.csv: row 1: l: .*{remedy}"):
        examples_of(table({"a": "x", "l": value}), Columns(("a",), label="l"), task)


def test_capital_letters_and_rows_that_lack_a_key() -> None:
    assert chosen(table({"Text": "x", "Label": 1}), CLASSES, needs_label=True) == Columns(("Text",), label="Label")
    assert chosen(table({"Text": "x", "sentence": "y"}), CLASSES) == Columns(("sentence",))
    assert chosen(table({"Premise": "x", "HYPOTHESIS": "y"}), CLASSES) == Columns(("Premise", "HYPOTHESIS"))
    with pytest.raises(DataError, match="row 1: has no column 'text'"):
        examples_of(Table("x", ("id", "text"), [{"id": 1}, {"id": 2, "text": "a"}]), Columns(("text",)), CLASSES)


def test_empty_texts_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = table(*({"a": text} for text in ("x", "", "NA", " ", "null", "None of it")))
    assert len(examples_of(rows, Columns(("a",)), CLASSES)) == 6
    assert [message.partition(" (")[0] for message in caplog.messages] == [
        "data.csv: 2 of 6 texts are empty",
        "data.csv: 2 of 6 texts are a mark of a missing value, such as NA or null",
    ]
    with pytest.raises(DataError, match=r"data\.csv: all texts are empty"):
        examples_of(table({"a": ""}, {"a": " "}), Columns(("a",)), CLASSES)


@pytest.mark.parametrize(
    ("keyed", "typed", "name", "published"),
    [
        (False, [], "text", "text"),
        (False, [], "Text", "Text"),
        (False, [], "utterance", "column_2"),
        (False, ["utterance"], "utterance", "utterance"),
        (True, [], "utterance", "utterance"),
        (True, [], "I had a good day", "column_2"),
        (False, ["I had a good day"], "I had a good day", "column_2"),
        (True, ["这部电影很好看"], "这部电影很好看", "column_2"),
        (True, ["x" * 41], "x" * 41, "column_2"),
    ],
)
def test_a_name_that_could_be_a_text_is_not_published(keyed: bool, typed: list[str], name: str, published: str) -> None:
    rows = Table("x", ("id", name), [{"id": 1, name: "y"}], keyed=keyed)
    assert public_names(rows, Columns((name,)), typed) == {name: published}


def test_the_fingerprint_is_of_content_and_order() -> None:
    one, other = Example("a", 0), Example("b", 0)
    prints = [examples_fingerprint(part) for part in ([one, other], [other, one], [one], [Example("a", 1), other])]
    assert len(set(prints)) == 4
    assert examples_fingerprint([Example("a", 0), Example("b", 0)]) == prints[0]

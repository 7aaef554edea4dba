"""Tables as people have them, against Python's own csv module and what the first line must not be taken for."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmean_lab.suites.base import DataError
from regmean_lab.suites.tables.table import read_table

TEXTS = ["a good day", "the cat ran", "it was late"]


def write(tmp_path: Path, content: str | bytes, name: str = "x.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(tmp_path: Path, delimiter: str, end: str) -> None:
    lines = [f"text{delimiter}label", *(f"{text}{delimiter}1" for text in TEXTS)]
    table = read_table(write(tmp_path, "\ufeff" + end.join(lines) + end))
    assert table.columns == ("text", "label")
    assert [dict(row) for row in table.rows] == [{"text": text, "label": "1"} for text in TEXTS]
    assert [table.place(table.number(row)) for row in range(3)] == [f"{table.name}:{number}" for number in (2, 3, 4)]


def test_the_separator_that_gives_all_lines_as_many_fields(tmp_path: Path) -> None:
    content = "text, part;label\none, two;1\nthree;2\n"
    assert read_table(write(tmp_path, content), header=True).columns == ("text, part", "label")
    with pytest.raises(
        DataError, match=r"x\.csv:1: cannot tell which character .* ',' gives 2 columns, ';' gives 2 columns"
    ):
        read_table(write(tmp_path, "text,a;label\nb,c;d\n"))
    # The only one in the first line separates, whatever the texts hold.
    table = read_table(write(tmp_path, "text;label\n" + "".join(f"{text}, {text};1\n" for text in TEXTS)))
    assert table.rows[0] == {"text": "a good day, a good day", "label": "1"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text("ab,;|\t\"'\n é", max_size=8), st.sampled_from("01")), min_size=1, max_size=6),
    st.sampled_from([",", ";", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_csv_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str, quoting: int
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("text", "label"), *rows])
    path = write(tmp_path_factory.mktemp("table"), text.getvalue())
    assert [tuple(row.values()) for row in read_table(path).rows] == rows


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_fields_of_any_length(tmp_path: Path, name: str) -> None:
    before, delimiter = csv.field_size_limit(), "," if name == "x.csv" else "\t"
    table = read_table(write(tmp_path, f"text{delimiter}label\n{'good ' * 40_000}{delimiter}1\n", name))
    assert len(table.rows[0]["text"]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a good day\nthe cat ran\n", "none of the usual names"),
        ("good\nbad\n", "none of the usual names"),
        ("a good day,1\nthe cat ran,0\n", "holds the number 1"),
        ("utterance,purpose\nhello,greet\n", "none of the usual names"),
        ("question,What is this?\nanswer,It is a cat.\n", "'What is this\\?' reads like a text"),
        ("question,what is this\nanswer,it is a cat\nquestion,who\n", "'question' occurs again as a value"),
        (",\na,b\n", "all its fields are empty"),
    ],
)
def test_a_first_line_that_may_be_a_text_is_asked_about(tmp_path: Path, content: str, reason: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(
        DataError, match=rf"x\.csv:1: cannot tell whether the first line .*{reason}.*header=true, or header=false"
    ):
        read_table(path)
    table = read_table(path, header=False)
    assert table.columns == ("column_1", "column_2")[: len(table.columns)]
    assert len(table.rows) == len(content.splitlines())
    assert not table.keyed


def test_names_that_are_given_make_a_header(tmp_path: Path) -> None:
    path = write(tmp_path, "Review Text,purpose\nhello,greet\n")
    assert read_table(path, typed=["Review Text"]).rows == [{"Review Text": "hello", "purpose": "greet"}]
    assert read_table(path, header=True).columns == ("Review Text", "purpose")
    with pytest.raises(DataError, match="cannot tell whether the first line"):
        read_table(path, typed=["other"])


def test_names_with_blanks_and_columns_without(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "text, label\na, 1\n")).rows == [{"text": "a", "label": " 1"}]
    assert read_table(write(tmp_path, ",text,label\n0,a,1\n1,b,0\n")).columns == ("text", "label")
    assert read_table(write(tmp_path, "v1,v2,,,\nham,hi,,,\n"), typed=["v2"]).columns == ("v1", "v2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,text,label\na,b,1\n", r"x\.csv:1: the column name 'text' occurs 2 times"),
        ("text, text\na,b\n", r"x\.csv:1: the column name 'text' occurs 2 times"),
        ('text,label\n"a,1\nb,1\n', r"x\.csv:2: a quotation mark is opened here and never closed"),
        ('text,label\na,1\n"b" c,1\n', r"x\.csv:3: text after a closing quotation mark"),
        (
            "text,label\na,1\nb, c,1\nd\ne,f,1\n",
            r"x\.csv:3: more .*\(also on 1 more line: 5\)\n.*x\.csv:4: fewer(.|\n)*in quotes",
        ),
        ("text,label\na,1\n\xe9,1\n".encode("latin-1"), r"x\.csv:3: not UTF-8 .*iconv"),
        ("text,label\na,1\n".encode("utf-16"), r"x\.csv:1: the file is UTF-16"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, content))


def test_quotes_inside_a_field_are_text(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, 'text,label\nsay "so" now,1\n')).rows[0]["text"] == 'say "so" now'
    assert read_table(write(tmp_path, 'text\tlabel\n"a\t1\n', "x.tsv")).rows[0]["text"] == '"a'

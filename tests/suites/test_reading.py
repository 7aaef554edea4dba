from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmean_lab.suites.base import DataError
from regmean_lab.suites.reading import limit_problems, parse_json, parse_lines, read_utf8


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "numbers.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [b"1\n2\n3\n", b"1\n2\n3", b"1\r\n2\r\n3\r\n", b"\xef\xbb\xbf1\n\n2\n  \r\n3\n"],
    ids=["plain", "no last line end", "carriage returns", "byte-order mark and blank lines"],
)
def test_forms_of_line_ends(tmp_path: Path, content: bytes) -> None:
    assert parse_lines(write(tmp_path, content), str) == ["1", "2", "3"]


def test_lines_are_not_cut_inside_a_text(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0bfour"
    assert parse_lines(write(tmp_path, text.encode()), str) == [text]


def test_malformed_lines_are_collected_with_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, b"1\n\nx\n3\ny\n\xff9\n")
    with pytest.raises(DataError) as caught:
        parse_lines(path, int)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:3", f"{path}:5", f"{path}:6"]
    assert "'x'" in lines[0]
    assert "not UTF-8 (invalid start byte at byte 1 of the line)" in lines[2]


def test_no_more_than_ten_kinds_of_malformed_lines_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(b"x%d\n" % number for number in range(25)))
    with pytest.raises(DataError) as caught:
        parse_lines(path, int)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 15 more malformed lines"


def test_malformed_lines_of_one_kind_are_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"x\n" * 9 + b"1\ny\n")
    with pytest.raises(DataError) as caught:
        parse_lines(path, int)
    assert str(caught.value).splitlines() == [
        f"{path}:1: invalid literal for int() with base 10: 'x' (also on 8 more lines: 2, 3, 4, 5, …)",
        f"{path}:11: invalid literal for int() with base 10: 'y'",
    ]


def test_carriage_returns_end_lines_only_where_nothing_else_does(tmp_path: Path) -> None:
    assert parse_lines(write(tmp_path, b"one\rtwo\r"), str) == ["one", "two"]
    assert parse_lines(write(tmp_path, b"one\rtwo\nthree\r\n"), str) == ["one\rtwo", "three"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n".encode("utf-16"), ":1: the file is UTF-16, not UTF-8; save it as UTF-8, .* iconv -f UTF-16"),
        ("a\nb\n".encode("utf-16-be"), ":1: the file seems to be UTF-16"),
        ("one\ntwo\n".encode("utf-16-le"), ":1: the file seems to be UTF-16"),
        ("one\ntwo\n".encode("utf-32-le"), ":1: the file seems to be UTF-16"),
        (gzip.compress(b"a\n", mtime=0), r":1: the file is compressed \(gzip\)"),
        (
            "a\nb\ncaf\xe9\n\xfcber\n".encode("latin-1"),
            r":3: not UTF-8 \(.* byte 4 of the line\) \(also on 1 more line: 4\); save",
        ),
    ],
)
def test_other_encodings_are_named_with_a_remedy(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    for read in (lambda: parse_lines(path, str), lambda: read_utf8(path)):
        with pytest.raises(DataError, match=message) as caught:
            read()
        assert len(str(caught.value).splitlines()) == 1


def test_whole_texts(tmp_path: Path) -> None:
    assert read_utf8(write(tmp_path, "\ufeffa\r\n\u2028b\r".encode())) == "a\r\n\u2028b\r"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" occurs twice'),
        (r'{"text": "good \ud83d day"}', r'"text": half of a character \(\\ud83d without'),
        (r'{"a": ["x", {"b": "\udc00"}]}', r'"a": half of a character \(\\udc00'),
        (r'{"\ud800": 1}', r"half of a character"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "a number of 5000 digits"),
        ('{"a": 1', "not JSON: .* at column 8"),
        ('{"a":\n1', "not JSON: .* at line 2, column 2"),
    ],
)
def test_json_that_has_no_one_meaning(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(),
        lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(), part, max_size=4),
        max_leaves=12,
    ),
    st.booleans(),
)
def test_json_is_read_as_the_library_does(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


def test_file_without_a_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no example"):
        parse_lines(write(tmp_path, b"\n \n"), str)


def test_limits() -> None:
    settings = SimpleNamespace(one=None, two=1, three=0, four=-5)
    assert limit_problems(settings, "one", "two", "three", "four") == [
        "three: expected at least 1 or null, got 0",
        "four: expected at least 1 or null, got -5",
    ]

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from regmean_lab.suites.base import DataError
from regmean_lab.suites.reading import limit_problems, parse_lines


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


def test_no_more_than_ten_malformed_lines_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path, b"x\n" * 25)
    with pytest.raises(DataError) as caught:
        parse_lines(path, int)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 15 more malformed lines"


def test_file_without_a_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no example"):
        parse_lines(write(tmp_path, b"\n \n"), str)


def test_limits() -> None:
    settings = SimpleNamespace(one=None, two=1, three=0, four=-5)
    assert limit_problems(settings, "one", "two", "three", "four") == [
        "three: expected at least 1 or null, got 0",
        "four: expected at least 1 or null, got -5",
    ]

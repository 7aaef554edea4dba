"""What `conftest.py` says of the test files."""

from __future__ import annotations

from pathlib import Path

from conftest import LONGEST, MARKS


def test_files_that_are_marked_or_begin_first_are_there() -> None:
    for path in (*MARKS, *LONGEST):
        assert (Path(__file__).parent / path).exists(), path

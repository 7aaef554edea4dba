"""What `conftest.py` says of the test files."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_files_that_are_marked_or_begin_first_are_there() -> None:
    folder = Path(__file__).parent
    said = runpy.run_path(str(folder / "conftest.py"))
    assert [path for path in (*said["MARKS"], *said["LONGEST"]) if not (folder / path).exists()] == []

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from regmean_lab.prepare.base import PrepareError, run_all
from regmean_lab.prepare.writing import wanted, write_together
from regmean_lab.suites.base import DataError


def read(path: Path) -> str:
    if path.read_text() == "bad":
        raise DataError(f"{path}:1: bad")
    return path.read_text()


def test_absent_files_are_wanted(tmp_path: Path) -> None:
    assert wanted("c", [tmp_path / "a", tmp_path / "b"], read, force=False)


def test_complete_files_stay_unless_forced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    write_together(dict.fromkeys(paths, b"good"))
    with caplog.at_level(logging.INFO):
        assert not wanted("c", paths, read, force=False)
    assert caplog.messages == ["c: is there already and stays as it is (force=true replaces it)"]
    assert wanted("c", paths, read, force=True)


def test_half_a_corpus_is_not_completed(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    paths[1].write_text("good")
    paths[2].write_text("bad")
    with pytest.raises(PrepareError) as caught:
        wanted("corpus", paths, read, force=False)
    assert str(caught.value).splitlines() == [
        f"{paths[0]} is not there, but b is",
        f"{paths[2]}:1: bad",
        "force=true writes all files of a corpus anew",
    ]
    assert wanted("corpus", paths, read, force=True)


def test_no_file_is_replaced_when_one_cannot_be_written(tmp_path: Path) -> None:
    old, blocked = tmp_path / "old", tmp_path / "file" / "new"
    old.write_text("before")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        write_together({old: b"after", blocked: b"new"})
    assert old.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["file", "old"]


def test_every_step_runs_and_all_failures_are_told() -> None:
    ran = []

    def step(name: str, error: Exception | None) -> None:
        ran.append(name)
        if error:
            raise error

    with pytest.raises(PrepareError) as caught:
        run_all(
            {
                "a": lambda: step("a", PrepareError("no file", "give one")),
                "b": lambda: step("b", None),
                "c": lambda: step("c", DataError("x:1: bad")),
                "d": lambda: step("d", PrepareError("no file either", "give one")),
            }
        )
    assert ran == ["a", "b", "c", "d"]
    assert str(caught.value).splitlines() == ["a: no file", "c: x:1: bad", "d: no file either", "give one"]

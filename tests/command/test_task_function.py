"""One job as launchers call it: what it leaves behind, however it ends."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import regmean_lab.experiment
from regmean_lab.__main__ import EXIT_INTERRUPTED, main
from regmean_lab.sweeps.summary import SWEEPS_FOLDER
from regmean_lab.sweeps.task_function import NOT_ENDED, JobError, job


@pytest.fixture
def output_dir(tmp_path: Path, write_emotions: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command writes; its arguments are set."""
    arguments = [
        *("suite=emotion", "suite.out_of_domain=[emoint]", "model=pico_bert", "members=[tec,isear]", "trainer=cpu"),
        *(f"paths.data_dir={write_emotions(tmp_path / 'data')}", f"paths.zoo_dir={tmp_path / 'zoo'}"),
    ]
    monkeypatch.setattr(sys, "argv", ["regmean_lab", *arguments, f"paths.output_dir={tmp_path / 'out'}"])
    return tmp_path / "out"


def record(output_dir: Path) -> dict[str, Any]:
    (path,) = (output_dir / SWEEPS_FOLDER).glob("*/jobs/*.json")
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def test_a_job_that_did_not_end_is_told(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever ends a process, the record from the beginning of the job is there."""

    def stop(*arguments: object) -> None:
        assert record(output_dir)["error"] == NOT_ENDED
        raise KeyboardInterrupt

    monkeypatch.setattr(regmean_lab.experiment, "run", stop)
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == EXIT_INTERRUPTED
    shown = capsys.readouterr().err
    assert NOT_ENDED in shown
    assert f"log: {record(output_dir)['folder']}" in shown


def test_processes_can_send_the_job_and_its_errors() -> None:
    """By their names: other processes import them."""
    assert pickle.loads(pickle.dumps(job)) is job
    error = pickle.loads(pickle.dumps(JobError("no data")))
    assert isinstance(error, JobError)
    assert str(error) == "no data"

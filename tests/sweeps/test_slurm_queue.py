"""What is made of the answers of ``squeue``: those of a stand-in, by a clock that the tests turn."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from regmean_lab.sweeps import slurm_queue
from regmean_lab.sweeps.slurm_queue import FORGOTTEN, GRACE_SECONDS, LONGEST_DELAY, SlurmQueue


class Controller:
    """Answers as it is told, and counts the questions."""

    def __init__(self, folder: Path) -> None:
        self.answer, self.error, self.calls, self.seconds = (
            folder / "answer",
            folder / "error",
            folder / "calls",
            1000.0,
        )
        self.calls.touch()
        command = folder / "squeue"
        command.write_text(
            f'#!/bin/sh\necho "$@" >> {self.calls}\n'
            f"[ -e {self.error} ] && cat {self.error} >&2 && exit 1\ncat {self.answer}\n"
        )
        command.chmod(0o755)

    def monotonic(self) -> float:
        return self.seconds

    def says(self, **jobs: str) -> None:
        """State and reason of each job; the numbers of jobs are names of arguments, so they begin with a letter."""
        self.error.unlink(missing_ok=True)
        rows = [f"{name.removeprefix('job')}|{text}" for name, text in jobs.items()]
        self.answer.write_text("".join(f"{row if row.count('|') == 2 else row + '|None'}\n" for row in rows))

    def fails(self, text: str) -> None:
        self.error.write_text(text + "\n")

    def questions(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    made = Controller(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm_queue, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


def lost_after(queue: SlurmQueue, controller: Controller, seconds: float, job: str) -> str | None:
    """What is known of a job when it has been asked about every second."""
    answer = None
    for _ in range(int(seconds)):
        controller.seconds += 1
        answer = queue.lost(job)
    return answer


def test_a_job_that_runs_or_waits_is_not_lost(controller: Controller) -> None:
    controller.says(job7_0="RUNNING", job7_1="PENDING|Resources", job7_2="COMPLETING")
    queue = SlurmQueue(["7_0", "7_1", "7_2"])
    for job in ("7_0", "7_1", "7_2"):
        assert lost_after(queue, controller, 500, job) is None
    first = controller.calls.read_text().splitlines()[0]
    assert first == "--noheader --array --states=all --jobs=7 --format=%i|%T|%r"


def test_a_job_that_was_cancelled_is_lost_when_its_result_had_time_to_show(controller: Controller) -> None:
    controller.says(job7_0="RUNNING", job7_1="CANCELLED")
    queue = SlurmQueue(["7_0", "7_1"])
    assert lost_after(queue, controller, GRACE_SECONDS, "7_1") is None
    assert lost_after(queue, controller, 3, "7_1") == "CANCELLED"
    assert lost_after(queue, controller, 60, "7_0") is None


def test_a_job_that_is_put_into_the_queue_again_is_not_lost(controller: Controller) -> None:
    """As after the end of a node: it has ended for a moment."""
    queue = SlurmQueue(["7"])
    for _ in range(2):
        controller.says(job7="NODE_FAIL")
        assert lost_after(queue, controller, GRACE_SECONDS - 2, "7") is None
        controller.says(job7="PENDING|BeginTime")
        assert lost_after(queue, controller, 120, "7") is None
    controller.says(job7="OUT_OF_MEMORY")
    assert lost_after(queue, controller, LONGEST_DELAY + GRACE_SECONDS + 1, "7") == "OUT_OF_MEMORY"


@pytest.mark.parametrize("answer", ["", "slurm_load_jobs error: Invalid job id specified"])
def test_a_job_that_slurm_has_forgotten_is_lost(answer: str, controller: Controller) -> None:
    controller.says(job8="RUNNING")
    if answer:
        controller.fails(answer)
    queue = SlurmQueue(["7_3"])
    assert lost_after(queue, controller, GRACE_SECONDS + 5, "7_3") == FORGOTTEN


def test_nothing_is_lost_while_the_controller_does_not_answer(
    controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    controller.says(job7="FAILED")
    queue = SlurmQueue(["7"])
    assert lost_after(queue, controller, 4, "7") is None
    controller.fails("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert lost_after(queue, controller, 600, "7") is None
    (told,) = (record.getMessage() for record in caplog.records)
    assert "which are waited for: slurm_load_jobs error: Unable to contact slurm controller" in told
    controller.says(job7="FAILED")
    assert lost_after(queue, controller, LONGEST_DELAY + GRACE_SECONDS + 1, "7") == "FAILED"


@pytest.mark.parametrize("reason", ["JobHeldUser", "launch failed requeued held", "BadConstraints"])
def test_a_job_that_waits_for_somebody_is_told_once(
    reason: str, controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    controller.says(job7_0=f"PENDING|{reason}", job7_1="PENDING|Priority")
    queue = SlurmQueue(["7_0", "7_1"])
    with caplog.at_level(logging.WARNING):
        assert lost_after(queue, controller, 300, "7_0") is None
    (told,) = (record.getMessage() for record in caplog.records)
    assert "scontrol release 7_0" in told
    assert reason in told


def test_the_controller_is_asked_seldom(controller: Controller) -> None:
    """Once in half a minute in the end, also about many jobs that were all cancelled."""
    jobs = [f"7_{number}" for number in range(50)]
    controller.says(**{f"job{job}": "RUNNING" for job in jobs})
    queue = SlurmQueue(jobs)
    for _ in range(600):
        controller.seconds += 1
        for job in jobs:
            assert queue.lost(job) is None
    before = controller.questions()
    assert before <= 7 + 600 / LONGEST_DELAY
    controller.says(**{f"job{job}": "CANCELLED" for job in jobs})
    controller.seconds += LONGEST_DELAY
    assert {queue.lost(job) for job in jobs} == {None}
    controller.seconds += GRACE_SECONDS
    assert {queue.lost(job) for job in jobs} == {"CANCELLED"}
    assert controller.questions() == before + 2

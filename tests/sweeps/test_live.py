"""What a sweep shows of its jobs, with a clock that tests turn."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from rich.console import Console

from regmean_lab.config.groups import TrainerConfig
from regmean_lab.sweeps import live
from regmean_lab.sweeps.live import SweepProgress, shown, watched
from regmean_lab.sweeps.task_function import _told
from regmean_lab.training.trainers import test_trainer as make_trainer
from regmean_lab.utils.progress import at_stage, is_listened, job_begins, job_ended, listening, shows_bars, steps_done


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Iterator[SweepProgress]:
    """Of four jobs; it is listening."""
    progress = SweepProgress(4, clock)
    with listening(progress):
        yield progress


def test_the_line_tells_job_stage_time_and_score(progress: SweepProgress, clock: Clock) -> None:
    assert progress.line() == ""
    job_begins("tec+isear regmean seed 1")
    assert progress.line() == "1/4 tec+isear regmean seed 1 · 1 s"
    at_stage("train tec")
    clock.now += 5
    steps_done(10, 40)
    clock.now += 20  # for ten steps: thirty are left, of which twenty are told of below
    steps_done(20, 40, 41.5)
    assert progress.line() == "1/4 tec+isear regmean seed 1 · train tec 20/40, 40 s left · 25 s · last score 41.50"
    at_stage("merge")
    assert progress.line() == "1/4 tec+isear regmean seed 1 · merge · 25 s · last score 41.50"


def test_the_time_left_is_that_of_jobs_like_those_before(
    progress: SweepProgress, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number, seconds in enumerate((10, 30)):
        job_begins(f"job {number}")
        clock.now += seconds
        job_ended(f"job {number}", 50.0 + number)
    job_begins("job 2")
    clock.now += 5  # of twenty

    assert progress.seconds_left() == pytest.approx(2 * 20 - 5)
    assert progress.line() == "3/4 job 2 · 5 s · all about 35 s left · last score 51.00"
    assert [record.message for record in caplog.records] == [
        "1 of 4: job 0: 50.00 in domain after 10 s; about 30 s left",
        "2 of 4: job 1: 51.00 in domain after 30 s; about 40 s left",
    ]
    job_ended("job 2", None, "no data")
    assert caplog.records[-1].message.startswith("3 of 4: job 2 failed after 5 s")
    job_begins("job 3")
    clock.now += 60
    assert "nearly done" in progress.line()


def test_a_step_that_is_what_the_job_is_called_is_told_once(progress: SweepProgress) -> None:
    job_begins("train tec")
    at_stage("train tec")
    steps_done(3, 9)
    assert progress.line() == "1/4 train tec · 3/9 · 1 s"


@contextmanager
def in_terminal(progress: SweepProgress, monkeypatch: pytest.MonkeyPatch, width: int = 40) -> Iterator[Terminal]:
    """A terminal that shows progress, and is standard output and error."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(live, "REFRESHES", 1000)
    with shown(progress, Console(file=terminal, width=width, force_terminal=True)):
        yield terminal


def test_what_is_printed_meanwhile_is_all_there_as_it_is(
    progress: SweepProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a line [bold]with[/bold] " + "what is wider than the terminal " * 5
    with in_terminal(progress, monkeypatch) as terminal:
        job_begins("the job")
        handler = logging.StreamHandler(sys.stdout)
        handler.emit(logging.LogRecord("n", logging.INFO, "p", 1, long, None, None))
        print("unfinished", end="")
        print(" and finished", file=sys.stdout)
        print("an error", file=sys.stderr)
        sys.stderr.write("bar 10 %\rbar 50 %\r")
        sys.stderr.write("bar 100 %\n")
        print("no newline at the end", end="")
        meanwhile = terminal.getvalue()
    handler.emit(logging.LogRecord("n", logging.INFO, "p", 1, "later", None, None))  # to the stream that it kept

    assert "the job" in meanwhile  # the line that changes
    for text in (long, "unfinished and finished", "an error", "bar 100 %"):
        assert f"{text}\n" in meanwhile.replace("\r\n", "\n")
    assert "bar 10 %" not in meanwhile
    assert terminal.getvalue().endswith("no newline at the endlater\n")
    assert sys.stdout is terminal


def test_the_line_is_no_wider_than_the_terminal(progress: SweepProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_terminal(progress, monkeypatch, width=30):
        job_begins("a job with a very long name that does not fit")
        console = Console(width=30, file=io.StringIO(), force_terminal=False)
        console.print(progress)
        assert isinstance(console.file, io.StringIO)
        (line,) = console.file.getvalue().splitlines()
    assert len(line) <= 30
    assert line.endswith("…")


def test_without_a_terminal_streams_stay_as_they_are(progress: SweepProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stdout", plain)
    with shown(progress, Console(file=plain)):
        assert sys.stdout is plain
        job_begins("the job")
        print("a line")
    assert plain.getvalue() == "a line\n"


def test_progress_bars_give_way_to_the_line(progress: SweepProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainerConfig(accelerator="cpu", progress_bar=True)
    assert shows_bars(True)
    with in_terminal(progress, monkeypatch):
        assert make_trainer(config).progress_bar_callback is None
    progress.replaces_bars = False
    assert make_trainer(config).progress_bar_callback is not None
    assert not shows_bars(False)


def test_jobs_of_other_processes_say_that_they_have_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not is_listened()
    with _told("tec+isear simple seed 1", several=True) as scores:
        scores.append(42.0)
    with pytest.raises(ValueError, match="wrong"), _told("tec", several=True):
        raise ValueError("wrong")
    with _told("alone", several=False) as scores:
        scores.append(1.0)

    assert [record.message for record in caplog.records] == ["tec+isear simple seed 1: 42.00 in domain", "tec failed"]


def test_only_jobs_of_this_process_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def launch(self, *arguments: object) -> str:
            return "launched"

    other = Other()
    launch: Callable[..., object] = watched(other)  # type: ignore[arg-type]
    assert launch == other.launch

    seen = []

    def launched(self: BasicLauncher, overrides: object, number: int) -> str:
        seen.append((overrides, number, is_listened()))
        return "launched"

    monkeypatch.setattr(BasicLauncher, "launch", launched)
    launch = watched(BasicLauncher())
    assert launch([["a=1"], ["a=2"]], 5) == "launched"
    assert seen == [([["a=1"], ["a=2"]], 5, True)]
    assert not is_listened()

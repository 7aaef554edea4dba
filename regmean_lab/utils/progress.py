"""What a job is at, told to whoever shows it; where nobody listens, nothing happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """Shows how jobs of this process proceed."""

    @property
    def replaces_bars(self) -> bool:
        """Whether progress bars would be in its way."""

    def begins(self, job: str) -> None:
        """A job begins.

        Args:
            job: what people call it.
        """

    def at(self, stage: str) -> None:
        """The job comes to a stage, such as ``merge``."""

    def steps(self, done: int, total: int, score: float | None = None) -> None:
        """Some steps of the stage are done.

        Args:
            done: how many.
            total: how many there are.
            score: what was measured now, times 100; None where nothing was.
        """

    def ended(self, job: str, score: float | None, problem: str | None) -> None:
        """A job has ended.

        Args:
            job: what people call it.
            score: its mean score in domain, times 100; None of one without.
            problem: why it failed; None where it did not.
        """


_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener told, for as long as the context lasts."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def is_listened() -> bool:
    """Whether anybody listens."""
    return bool(_listeners)


def shows_bars(configured: bool) -> bool:
    """Whether there are progress bars: as configured, unless a listener shows progress where they would be."""
    return configured and not any(listener.replaces_bars for listener in _listeners)


def job_begins(job: str) -> None:
    """Tell that a job begins."""
    for listener in _listeners:
        listener.begins(job)


def at_stage(stage: str) -> None:
    """Tell which stage the job comes to."""
    for listener in _listeners:
        listener.at(stage)


def steps_done(done: int, total: int, score: float | None = None) -> None:
    """Tell how many steps of the stage are done."""
    for listener in _listeners:
        listener.steps(done, total, score)


def job_ended(job: str, score: float | None, problem: str | None = None) -> None:
    """Tell that a job has ended."""
    for listener in _listeners:
        listener.ended(job, score, problem)

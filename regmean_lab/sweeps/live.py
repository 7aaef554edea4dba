"""How a sweep's jobs proceed: a line that changes in a terminal, and a line for each job that has ended.

The changing line is there where jobs run one after the other in this process. What is logged or printed meanwhile
appears above it, as it is. Jobs of other processes say by a line each that they have ended.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from regmean_lab.sweeps.stages import Launch
from regmean_lab.sweeps.task_function import end_text
from regmean_lab.utils.progress import listening
from regmean_lab.utils.quantities import duration

log = logging.getLogger(__name__)

IN_THIS_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""By its name: Hydra imports the modules of its plugins again when it looks for them, which makes other classes."""

REFRESHES = 4
"""A second, of the line in a terminal."""

Clock = Callable[[], float]


def watched(launcher: Launcher) -> Launch:
    """The launcher's ``launch``; where it runs jobs one after the other in this process, it shows how they proceed."""
    if f"{type(launcher).__module__}.{type(launcher).__qualname__}" != IN_THIS_PROCESS:
        return launcher.launch

    def launch(overrides: Sequence[Sequence[str]], number: int) -> Sequence[JobReturn]:
        progress = SweepProgress(len(overrides))
        with shown(progress, Console(file=sys.stdout)), listening(progress):
            return launcher.launch(overrides, number)

    return launch


class SweepProgress:
    """What is known of jobs that run one after the other; a listener of :mod:`regmean_lab.utils.progress`.

    Args:
        total: number of jobs.
        clock: seconds.
    """

    def __init__(self, total: int, clock: Clock = time.monotonic) -> None:
        self.replaces_bars = False
        self.changed: Callable[[], None] = lambda: None
        """Called at each new stage and its first steps, which may be over before the line is drawn again."""
        self._total, self._clock = total, clock
        self._began = self._job_began = self._stage_began = clock()
        self._ended = 0
        self._job = self._stage = ""
        self._steps = (0, 0)
        self._first_step: int | None = None
        self._score: float | None = None
        self._spinner = Spinner("dots")

    def begins(self, job: str) -> None:
        """The next job."""
        self._job, self._job_began = job, self._clock()
        self.at("")

    def at(self, stage: str) -> None:
        """The next stage of the job."""
        self._stage, self._stage_began = stage, self._clock()
        self._steps, self._first_step = (0, 0), None
        self.changed()

    def steps(self, done: int, total: int, score: float | None = None) -> None:
        """Some steps of the stage."""
        self._steps = (done, total)
        self._score = self._score if score is None else score
        if self._first_step is None:
            # Work that goes on somewhere began before; its speed is not known yet.
            self._first_step, self._stage_began = done, self._clock()
            self.changed()

    def ended(self, job: str, score: float | None, problem: str | None) -> None:
        """A job has ended: told by a line that stays."""
        self._ended += 1
        self._score = self._score if score is None else score
        took = duration(self._clock() - self._job_began)
        self._job = ""
        self.at("")
        left = self.seconds_left()
        rest = f"; about {duration(left)} left" if left and self._ended < self._total else ""
        log.info("%d of %d: %s after %s%s", self._ended, self._total, end_text(job, score, problem), took, rest)

    def seconds_left(self) -> float | None:
        """Until all jobs have ended, if those to come take as long as those before; None before one has ended."""
        if not self._ended:
            return None
        each = (self._job_began - self._began if self._job else self._clock() - self._began) / self._ended
        begun = self._clock() - self._job_began if self._job else 0.0
        return max(0.0, each * (self._total - self._ended) - begun)

    def stage_seconds_left(self) -> float | None:
        """Until the stage has ended, at the speed it had so far; None where that is not known."""
        done, total = self._steps
        since = done - (self._first_step or 0)
        if since <= 0 or total <= done:
            return None
        return (self._clock() - self._stage_began) / since * (total - done)

    def line(self) -> str:
        """All of it in a line."""
        if not self._job:
            return ""
        parts = [f"{min(self._ended + 1, self._total)}/{self._total} {self._job}"]
        done, total = self._steps
        stage = [self._stage] if self._stage not in ("", self._job) else []
        stage += [f"{done}/{total}"] if total else []
        left = self.stage_seconds_left()
        if stage:
            parts.append(" ".join(stage) + (f", {duration(left)} left" if left else ""))
        parts.append(duration(self._clock() - self._job_began))
        if (left := self.seconds_left()) is not None:
            parts.append(f"all about {duration(left)} left" if left else "nearly done")
        if self._score is not None:
            parts.append(f"last score {self._score:.2f}")
        return " · ".join(parts)

    def __rich__(self) -> Any:
        """The line for a terminal, no wider than it."""
        if not (line := self.line()):
            return Group()
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=1)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row(self._spinner, Text(line))
        return grid


@contextmanager
def shown(progress: SweepProgress, console: Console) -> Iterator[None]:
    """Show progress in a terminal, below what is written; elsewhere nothing but what is logged."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    live = Live(
        progress,
        console=console,
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=False,  # rich would break long lines
        redirect_stderr=False,
    )
    progress.replaces_bars = True
    streams = sys.stdout, sys.stderr
    above = [_Above(stream, live) if stream.isatty() else stream for stream in streams]
    sys.stdout, sys.stderr = above
    try:
        with live:
            progress.changed = live.refresh
            yield
    finally:
        progress.changed = lambda: None
        sys.stdout, sys.stderr = streams
        for stream in above:
            if isinstance(stream, _Above):
                stream.end()


class _Above(io.TextIOBase):
    """A stream of the terminal whose lines appear above a line that changes.

    Log handlers keep it when the line is gone: then, and in other processes, it is the stream itself.
    """

    def __init__(self, stream: TextIO, live: Live) -> None:
        self._stream, self._live, self._process = stream, live, os.getpid()
        self._lock, self._pending, self._over = threading.RLock(), "", False

    def write(self, text: str) -> int:
        """Write whole lines; the rest waits. Of a line that goes back to its beginning, what was written last stays."""
        if self._over or os.getpid() != self._process:
            return self._stream.write(text)
        with self._lock:
            *lines, self._pending = (self._pending + text).split("\n")
            self._pending = self._pending.rstrip("\r").rpartition("\r")[2] + "\r" * self._pending.endswith("\r")
            for line in lines:
                self._live.console.out(line.rstrip("\r").rpartition("\r")[2], highlight=False)
        return len(text)

    def end(self) -> None:
        """Write what waits, and from now on everything at once."""
        with self._lock:
            self._over = True
            if rest := self._pending.strip("\r"):
                self._stream.write(rest)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """It is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self._stream.encoding

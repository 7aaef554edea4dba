"""What SLURM's controller says of the jobs of a sweep, by ``squeue``.

``sacct``, which submitit asks, needs an accounting database that many clusters do not have: without it, a job that was
killed would be waited for without end.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

FORGOTTEN = "FORGOTTEN"
"""In place of the state of a job that the controller does not know any more: a task of an array that was cancelled
before it began, or a job that ended minutes ago (``MinJobAge``)."""

ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
    | {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT", FORGOTTEN}
)
"""States in which a job has no process any more (https://slurm.schedmd.com/squeue.html#SECTION_JOB-STATE-CODES)."""

GRACE_SECONDS = 15.0
"""How long a job must have ended before it counts as lost: it may be put into the queue again, and what it wrote last
may show late on a file system of a network."""

FIRST_DELAY, LONGEST_DELAY = 2.0, 30.0
"""Seconds between two questions: the controller serves everybody."""

HELD = ("held", "BadConstraints", "DependencyNeverSatisfied")
"""Parts of the reasons for which a job waits until somebody does something."""

log = logging.getLogger(__name__)


@dataclass
class QueuedJob:
    """A job as the controller knows it.

    Attributes:
        state: the state, in SLURM's word.
        reason: why it is in this state.
        ended: since when it has been seen in a state of ``ENDED``, by the monotonic clock; None of one that goes on.
    """

    state: str = "PENDING"
    reason: str = "None"
    ended: float | None = None


class SlurmQueue:
    """Follows jobs.

    Args:
        jobs: their numbers: ``JOB``, or ``JOB_TASK`` of an array's task.
    """

    def __init__(self, jobs: Iterable[str]) -> None:
        self._jobs = {job: QueuedJob() for job in jobs}
        self._delay, self._asked = FIRST_DELAY, time.monotonic()
        self._silent = False
        self._told: set[tuple[str, str]] = set()

    def lost(self, job: str) -> str | None:
        """The state in which a job ended, once that is certain; None of one that may still have a result."""
        if self._due(job):
            self._ask()
        ended = self._jobs[job].ended
        return None if ended is None or self._asked < ended + GRACE_SECONDS else self._jobs[job].state

    def _due(self, job: str) -> bool:
        now, ended = time.monotonic(), self._jobs[job].ended
        grace_over = ended is not None and self._asked < ended + GRACE_SECONDS <= now
        return now >= self._asked + self._delay or grace_over

    def _ask(self) -> None:
        """Ask the controller, and wait longer before the next time."""
        self._delay = min(1.5 * self._delay, LONGEST_DELAY)
        listed = self._squeue()
        self._asked = time.monotonic()
        if listed is None:  # nothing is known; a job that had ended must be seen so again
            for job in self._jobs.values():
                job.ended = None
            return
        for number, job in self._jobs.items():
            if number in listed or job.ended is None:
                job.state, job.reason = listed.get(number, (FORGOTTEN, ""))
            if job.state not in ENDED:
                job.ended = None
                self._tell_if_held(number, job)
            elif job.ended is None:
                job.ended = self._asked

    def _squeue(self) -> dict[str, tuple[str, str]] | None:
        """State and reason of all that the controller still knows of; None if it does not answer."""
        numbers = dict.fromkeys(job.partition("_")[0] for job in self._jobs)
        command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(numbers)}"]
        try:
            done = subprocess.run([*command, "--format=%i|%T|%r"], capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            problem = "no answer within 120 seconds"
        else:
            if done.returncode == 0:
                self._silent = False
                rows = (line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
                return {number: (state, reason) for number, state, reason in rows}
            if "Invalid job id" in done.stderr:  # of a single job that was forgotten
                self._silent = False
                return {}
            problem = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if not self._silent:
            log.warning("SLURM does not say how its jobs are, which are waited for: %s", problem)
        self._silent = True
        return None

    def _tell_if_held(self, number: str, job: QueuedJob) -> None:
        if any(part.lower() in job.reason.lower() for part in HELD) and (number, job.reason) not in self._told:
            self._told.add((number, job.reason))
            log.warning(
                "SLURM job %s waits for somebody (%s): let it go on with `scontrol release %s`, or end it with "
                "`scancel %s`",
                *(number, job.reason, number, number),
            )

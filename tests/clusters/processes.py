"""Processes of this machine, found in /proc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WAIT_SECONDS = 600
"""How long to wait for something to happen before the test fails; it takes a fraction of it."""


@dataclass(frozen=True)
class Process:
    """One process.

    Attributes:
        number: its number.
        parent: that of the process that started it.
        arguments: its command line.
        environment: its variables, as ``NAME=VALUE``.
    """

    number: int
    parent: int
    arguments: tuple[str, ...]
    environment: frozenset[str]

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; whether it was still there."""
        try:
            os.kill(self.number, number)
            state = (Path("/proc") / str(self.number) / "stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return False
        return state != "Z"


def processes() -> list[Process]:
    """All others that can be looked at."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments, environment = (texts(path / name) for name in ("cmdline", "environ"))
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended, or is somebody else's
            continue
        if int(path.name) != os.getpid():
            found.append(Process(int(path.name), parent, tuple(arguments), frozenset(environment)))
    return found


def texts(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\0")


def processes_with(text: str) -> list[Process]:
    """Those in whose command line or environment a text is."""
    return [each for each in processes() if any(text in part for part in (*each.arguments, *each.environment))]


def until(happened: Callable[[], object], told: Callable[[], str], seconds: float = WAIT_SECONDS) -> None:
    """Wait for something.

    Args:
        happened: whether it has happened.
        told: the message of the test that fails because it does not.
        seconds: how long to wait.
    """
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"it did not happen\n{told()}"
        time.sleep(0.01)

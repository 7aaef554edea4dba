"""Memory of this process; imports nothing that other programs' environments may lack."""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path

STATUS = Path("/proc/self/status")
INTERVAL = 0.01
"""Seconds between two looks at memory."""


def peak_bytes() -> int:
    """Most resident memory of this process so far: its own and that of mapped files; the system's cache is not.

    From ``VmHWM`` where there is one: what ``getrusage`` tells begins with the memory of the process that started this
    one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class OwnMemory:
    """Most memory that is this process's own: without the files that it has mapped, which the system can take back.

    The system keeps no record of that: it is looked at again and again while this is entered.
    """

    def __init__(self) -> None:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> OwnMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            self.most = max(self.most, own_bytes())
            self._done.wait(INTERVAL)


def own_bytes() -> int:
    """Resident memory now without mapped files; 0 where the system does not tell."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))

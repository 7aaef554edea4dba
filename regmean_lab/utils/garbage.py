"""When a command looks for garbage: neither while it starts nor when it ends."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_later() -> Iterator[None]:
    """Look for no garbage in here, until :func:`collect_again` is called, and none when the process ends.

    What a command imports and composes stays until it ends. To look through it takes a tenth of the time in which it is
    imported, and half a second at the end, when Python does so several times.
    """
    atexit.register(gc.freeze)  # at the very end: what was registered later comes first
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def collect_again() -> None:
    """Look for garbage from now on, before work that makes some; not among what the command has imported so far.

    Does nothing after the first time: what an earlier job of the process has left is garbage.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()

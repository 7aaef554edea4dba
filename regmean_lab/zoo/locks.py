"""Locks between processes. A lock ends with the process that holds it, however the process ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""How often a job that waits for another one's lock looks again."""


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``; wait for as long as another job holds it.

    Args:
        path: the lock file; its folder is created.
        what: what the other job is doing, for the one message that is logged if there is a wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, poll_interval=POLL_SECONDS)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Waiting: another job is %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def hold_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path`` if no job holds it; yields whether it is held now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()

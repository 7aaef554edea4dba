"""What users are told where memory runs out, on a GPU or in main memory: at what, and what takes less."""

from __future__ import annotations

import ctypes
import errno
import gc
import platform
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from regmean_lab.utils.errors import UserError

TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
"""What PyTorch's errors say: of CUDA and MPS, of main memory (Linux, Windows), and of CUDA's libraries."""

MAX_LENGTH = 250
"""Most characters of what the error itself says."""


class MemoryShortage(UserError):
    """There is too little memory for a piece of work, with these settings."""


@contextmanager
def memory_for(work: str, remedies: Iterable[str]) -> Iterator[None]:
    """Say of an error for lack of memory what was being done, and what takes less.

    What the failed work held is freed: in a sweep the next job runs in the same process.

    Args:
        work: what is done in here: of what, where, with which sizes; ``train tec on cuda:0, batches of 16 examples``.
        remedies: settings that take less memory, best first, each with what it changes.

    Raises:
        MemoryShortage: in the place of the error. All others pass as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_memory_error(error):
            raise
        # The error goes on as a cause, and its frames would keep alive what they hold.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        lines = [f"out of memory: {work}: {_reason(error)}", *(f"takes less: {remedy}" for remedy in remedies)]
        raise MemoryShortage("\n  ".join(lines)) from error


def give_back_free_memory() -> None:
    """Have the C library give the memory that is free back to the system, between what is in use as well.

    By default glibc keeps what was freed for later. Where many threads take and free blocks of all sizes in turn, what
    it keeps falls into pieces that fit nothing, and comes to be most of what the process has. Nothing happens with
    another C library.
    """
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is glibc; asking for its name reads the interpreter's file."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


def is_memory_error(error: BaseException) -> bool:
    """Whether an error tells of too little memory; by its name and text, as there are several in PyTorch alone."""
    if isinstance(error, UserError):
        return False  # it has been told
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def halved(setting: str, value: int, effect: str) -> list[str]:
    """A remedy: half of a size, unless it is one already."""
    return [f"{setting}={value // 2} ({effect})"] if value > 1 else []


def other_device(device: str, effect: str = "slower") -> list[str]:
    """A remedy: the processor in the place of another device.

    Args:
        device: where it was done.
        effect: what that changes.
    """
    return [] if device.startswith("cpu") else [f"trainer=cpu (main memory; {effect})"]


def _reason(error: BaseException) -> str:
    """The beginning of what an error says: of CUDA's, how much was asked for and how much is free."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    first = re.split(r" Including non-PyTorch memory| Process \d+ has ", first)[0]
    return first[:MAX_LENGTH].rstrip(". ")

"""Disks on which there is little room: a limit of the system's own, and a file system in memory."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """While this lasts, no file of this process may have more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class SmallDisk:
    """A file system in memory with room for so many kilobytes."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        self._mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")

    def make_room(self, kilobytes: int) -> None:
        """Change its size."""
        self._mount("-o", f"remount,size={kilobytes}k")

    def read_only(self) -> None:
        """Take no more files."""
        self._mount("-o", "remount,ro")

    def close(self) -> None:
        """Forget it with all its files."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def _mount(self, *arguments: str) -> None:
        subprocess.run(["mount", *arguments, self.folder], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[SmallDisk]:
    """A small disk at a folder; the test is skipped where none can be made."""
    folder.mkdir(parents=True)
    try:
        disk = SmallDisk(folder, kilobytes)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield disk
    finally:
        disk.close()

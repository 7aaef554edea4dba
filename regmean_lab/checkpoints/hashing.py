"""Checksums of the files that a merge reads, computed beside other work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from regmean_lab.utils.files import file_sha256


class Checksums:
    """Checksums that are being computed.

    Args:
        files: by source and by the name that the file has in records, the file.
        executor: where they are computed; each file once.
    """

    def __init__(self, files: Mapping[str, Mapping[str, Path]], executor: ThreadPoolExecutor) -> None:
        self.files = files
        self._sums: dict[Path, Future[str]] = {}
        for path in (path for own in files.values() for path in own.values()):
            if path not in self._sums:
                self._sums[path] = executor.submit(_known_sha256, path)

    def result(self) -> dict[str, dict[str, str]]:
        """SHA-256 of every file, by source and name, when all are known.

        Raises:
            OSError: for a file that cannot be read.
        """
        return {
            source: {name: self._sums[path].result() for name, path in own.items()}
            for source, own in self.files.items()
        }


def _known_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once while its size and time of change stay the same: checks and work ask for it."""
    state = path.stat()
    return _sha256_at(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_at(path: Path, inode: int, size: int, changed: int) -> str:
    return file_sha256(path)


@contextmanager
def hashed(files: Mapping[str, Mapping[str, Path]], threads: int = 1) -> Iterator[Checksums]:
    """Begin to compute checksums; after an error no further file is begun.

    Args:
        files: by source and name, the file.
        threads: files that are read at once.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="checksums") as executor:
        try:
            yield Checksums(files, executor)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise

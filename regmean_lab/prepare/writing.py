"""Writes the files of a corpus atomically, and never overwrites others unless asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from regmean_lab.prepare.base import PrepareError
from regmean_lab.suites.base import DataError
from regmean_lab.utils.files import new_file, write_text

NOTICE_FILE = "NOTICE.txt"

_logger = logging.getLogger(__name__)


def wanted(corpus: str, paths: Sequence[Path], read: Callable[[Path], object], force: bool) -> bool:
    """Whether a corpus is to be written: yes if none of its files is there, or if ``force`` says so.

    Args:
        corpus: its name, for messages.
        paths: its files.
        read: the reader that the suite uses; raises ``DataError`` for a file that the suite could not read.
        force: whether files that are there are replaced.

    Raises:
        PrepareError: if only some files are there, or one cannot be read. They are not completed: files of one run
            beside files of another could have the same sentence in two splits.
    """
    there = [path for path in paths if path.exists()]
    if force or not there:
        return True
    problems = [f"{path} is not there, but {there[0].name} is" for path in paths if path not in there]
    for path in there:
        try:
            read(path)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise PrepareError("\n".join(problems), "force=true writes all files of a corpus anew")
    _logger.info("%s: is there already and stays as it is (force=true replaces it)", corpus)
    return False


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files, and give them their names only when all are complete; folders are made."""
    with ExitStack() as together:
        for path, content in contents.items():
            together.enter_context(new_file(path)).write_bytes(content)


def write_notice(folder: Path, notice: str, changes: str) -> None:
    """Put origin, licence and citation beside the data, and how it was changed."""
    write_text(folder / NOTICE_FILE, f"{notice.strip()}\n\nHow the files here were made: {changes}\n")

"""What every preparer provides: what it needs and writes, under which licence, and how it does it.

A preparer is one file in this package. It registers itself with :func:`register_preparer`; the command meets it only
through the classes below.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from regmean_lab.suites.base import DataError
from regmean_lab.utils.registry import Registry

OPTIONS = ("from", "mirror", "seed")
"""Arguments that a preparer may take besides ``suite``, ``data_dir`` and ``force``, which all take."""


class PrepareError(Exception):
    """Data that could not be prepared; the message says why, and what to put where or which argument to give.

    Args:
        problem: what is wrong, and where.
        advice: what to do, if several problems may share it; it is reported once, after all of them.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem, advice)
        self.problem = problem
        self.advice = advice

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.problem, self.advice)))

    @classmethod
    def joined(cls, errors: Mapping[str, Exception]) -> PrepareError:
        """One error of several, each after the name of what it concerns."""
        problems = [
            f"{name}: {error.problem if isinstance(error, PrepareError) else error}" for name, error in errors.items()
        ]
        advice = dict.fromkeys(error.advice for error in errors.values() if isinstance(error, PrepareError))
        return cls("\n".join(problems), "\n".join(filter(None, advice)))


@dataclass(frozen=True)
class Request:
    """What the command line asks of a preparer.

    Attributes:
        data_dir: folder below which the suites' files lie.
        source: file or folder that the user has (``from=``).
        mirror: folder or base URL to read upstream files from (``mirror=``).
        seed: determines random splits.
        force: whether files that are there are replaced.
    """

    data_dir: Path
    source: Path | None = None
    mirror: str | None = None
    seed: int = 0
    force: bool = False


class Preparer(ABC):
    """Brings or converts one family of corpora.

    Attributes:
        name: what ``suite=`` names.
        suites: suites that read what this writes; the corpora of :meth:`files` are corpora of the first.
        options: those of :data:`OPTIONS` that it takes.
        needs: what it brings by itself or needs, in a few words.
        arguments: how it is called, after ``python -m regmean_lab.prepare``; empty if it cannot be called.
        notice: origin, licence and citation; shown before anything is downloaded or converted.
    """

    name: ClassVar[str]
    suites: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str]
    arguments: ClassVar[str]
    notice: ClassVar[str]

    @abstractmethod
    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """The files of each corpus; a corpus is there if all of them are."""

    @abstractmethod
    def prepare(self, request: Request) -> None:
        """Write the files.

        Raises:
            PrepareError: if something is missing or cannot be brought.
            DataError: if a source is malformed; the message names file and line.
        """


_PREPARERS: Registry[Preparer] = Registry("preparer")
register_preparer = _PREPARERS.register
"""Class decorator: make a preparer known under a name."""


def preparers() -> dict[str, Preparer]:
    """A preparer of every registered kind by name, in alphabetical order."""
    return {name: _PREPARERS[name]() for name in sorted(_PREPARERS)}


def run_all(steps: Mapping[str, Callable[[], None]]) -> None:
    """Run every step, also after one that failed.

    Args:
        steps: by name of what they prepare.

    Raises:
        PrepareError: after the last step, with the messages of all that failed.
    """
    failed: dict[str, Exception] = {}
    for name, step in steps.items():
        try:
            step()
        except (PrepareError, DataError) as error:
            failed[name] = error
    if failed:
        raise PrepareError.joined(failed)

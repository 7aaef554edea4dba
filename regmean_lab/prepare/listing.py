"""What is prepared and what is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regmean_lab.prepare.base import Preparer
from regmean_lab.suites.base import Suite

COMMAND = "python -m regmean_lab.prepare"


@dataclass(frozen=True)
class Status:
    """State of one family of corpora.

    Attributes:
        name: the preparer's name, or that of a suite without one.
        suites: suites that read it.
        present: corpora all of whose files are there.
        missing: the other corpora; of one that is there in part, with the files that are absent.
        problems: what the suites find wrong with the corpora that are there.
        command: what downloads or converts the missing ones; empty if nothing does.
        needs: what that command needs.
    """

    name: str
    suites: tuple[str, ...]
    present: tuple[str, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    command: str
    needs: str


def statuses(
    data_dir: Path, preparers: Mapping[str, Preparer], suites: Mapping[str, type[Suite]], default_data_dir: Path
) -> list[Status]:
    """State of all data, without a download: first what has a preparer, then suites without one.

    Args:
        data_dir: folder below which the files lie.
        preparers: by name.
        suites: registered suites by name.
        default_data_dir: the folder that commands need not name.
    """
    where = "" if data_dir == default_data_dir else f" data_dir={data_dir}"
    found = [_prepared(data_dir, preparer, suites, where) for preparer in preparers.values()]
    served = {name for preparer in preparers.values() for name in preparer.suites}
    return found + [_unprepared(data_dir, suite) for name, suite in sorted(suites.items()) if name not in served]


def _prepared(data_dir: Path, preparer: Preparer, suites: Mapping[str, type[Suite]], where: str) -> Status:
    present, missing = [], []
    for corpus, paths in preparer.files(data_dir).items():
        absent = [path.name for path in paths if not path.is_file()]
        if not absent:
            present.append(corpus)
        elif len(absent) == len(paths):
            missing.append(corpus)
        else:
            missing.append(f"{corpus} ({', '.join(absent)})")
    readers = tuple(name for name in preparer.suites if name in suites)
    # Only corpora that are there: of others, a suite may look whether they can be had from the web.
    problems = _suite(suites[readers[0]], data_dir).missing(present) if readers else []
    command = f"{COMMAND} {preparer.arguments}{where}" if preparer.arguments else ""
    return Status(
        preparer.name,
        readers or preparer.suites,
        tuple(present),
        tuple(missing),
        tuple(problems),
        command,
        preparer.needs,
    )


def _unprepared(data_dir: Path, suite_type: type[Suite]) -> Status:
    suite = _suite(suite_type, data_dir)
    messages = {member: suite.missing([member]) for member in suite.members}
    return Status(
        suite_type.name,
        (suite_type.name,),
        tuple(member for member, found in messages.items() if not found),
        tuple(member for member, found in messages.items() if found),
        tuple(message for found in messages.values() for message in found),
        "",
        "files placed by hand",
    )


def _suite(suite_type: type[Suite], data_dir: Path) -> Suite:
    return suite_type(data_dir, suite_type.settings_type())


def show(found: Sequence[Status], data_dir: Path, console: Console) -> None:
    """Print a table, what is wrong, and the commands that bring what is missing."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("data", "suites", "present", "missing"):
        table.add_column(heading, overflow="fold")
    for status in found:
        cells = (status.name, ", ".join(status.suites), ", ".join(status.present), ", ".join(status.missing))
        table.add_row(*(Text(cell or "–") for cell in cells))  # as Text: names are no markup
    console.print(Text(f"In {data_dir}{os.sep}:"))
    console.print(table)
    for status in found:
        for problem in status.problems:
            console.print(Text(problem, style="red"), soft_wrap=True)
    incomplete = [status for status in found if status.missing]
    if not incomplete:
        console.print("Nothing is missing.")
        return
    console.print("To get the missing ones:")
    for status in incomplete:
        console.print(Text(f"  {status.name}: {status.command or 'placed by hand'}"), soft_wrap=True)
        console.print(Text(f"      needs {status.needs}"), soft_wrap=True)

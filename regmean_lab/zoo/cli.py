"""The command ``regmean-lab zoo``, or ``python -m regmean_lab.zoo``: lists, verifies and prunes the trained members."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regmean_lab.utils.names import nearest
from regmean_lab.utils.quantities import byte_size, counted, duration
from regmean_lab.zoo.entry import ZooEntry, ZooError
from regmean_lab.zoo.store import Pruned, Zoo

ZOO_VARIABLE = "REGMEAN_LAB_ZOO"
DEFAULT_ZOO = "zoo"
PROGRAM = "python -m regmean_lab.zoo"
COMMANDS = ("list", "verify", "prune")

_WIDTH_OF_FILES = 200
"""Characters in a line of a table that goes to a file or a pipe instead of a terminal."""

_WIDE = 130
"""From how many characters on a line has room for all columns."""


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command.

    Args:
        arguments: those of the command line unless given.
        program: what the command is called in its help.

    Returns:
        The exit code: 0 if all is well, 1 if there are problems or nothing was confirmed, 2 for a wrong command line.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given.insert(0, "list")
    options = _parser(program).parse_args(given)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, highlight=False, soft_wrap=False)
    zoo = Zoo(options.zoo_dir)
    try:
        return int(options.run(zoo, options, console))
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def completions(finished: Sequence[str], unfinished: str) -> list[str]:
    """What may come after the words of a command line, for shells that complete."""
    if not finished:
        return [*COMMANDS, "--zoo-dir", "--json"]
    options = ["--zoo-dir", "--json"]
    return [*options, "--older-than", "--broken", "--dry-run", "--yes"] if finished[0] == "prune" else options


def _parser(program: str) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--zoo-dir",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get(ZOO_VARIABLE) or DEFAULT_ZOO),
        help=f"folder of the zoo (paths.zoo_dir of a job); default: ${ZOO_VARIABLE}, else ./{DEFAULT_ZOO}",
    )
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser = argparse.ArgumentParser(
        prog=program, description="Look after the trained members. Without a command: list."
    )
    commands = parser.add_subparsers(title="commands", metavar=f"{{{','.join(COMMANDS)}}}", required=True)

    command = commands.add_parser("list", parents=[common], help="list the members")
    command.set_defaults(run=_list)

    command = commands.add_parser(
        "verify", parents=[common], help="check every file of every member; exit code 1 if something is wrong"
    )
    command.set_defaults(run=_verify)

    command = commands.add_parser(
        "prune",
        parents=[common],
        help="remove what killed jobs left behind, and the members asked for",
        description="Remove temporary folders and locks that killed jobs left behind, and every member that is named, "
        "older than DAYS, or broken. Members that a running job is making or measuring stay.",
    )
    command.add_argument("names", nargs="*", metavar="NAME", help="name or address of a member to remove")
    command.add_argument("--older-than", type=_days, metavar="DAYS", help="remove members older than this many days")
    command.add_argument("--broken", action="store_true", help="remove members in which 'verify' finds problems")
    command.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    command.add_argument("-y", "--yes", action="store_true", help="do not ask")
    command.set_defaults(run=_prune)
    return parser


def _days(text: str) -> float:
    days = float(text)
    if not days >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days")
    return days


def _list(zoo: Zoo, options: argparse.Namespace, console: Console) -> int:
    rows = sorted((_row(entry) for entry in zoo.entries()), key=_order)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        _say_empty(zoo, console)
        return 0
    # A name begins with these four in most cases, so that a narrow terminal misses little.
    described = ("suite", "corpus", "model", "seed") if console.width >= _WIDE else ()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", *described, "dev score", "size", "age", "statistics"):
        right = heading in ("seed", "dev score", "size", "age")
        table.add_column(heading, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        score = row["dev_scores"].get(row["key_score"])
        cells = [
            row["name"],
            *("–" if row[name] is None else str(row[name]) for name in described),
            "–" if score is None else f"{score:.2f} {row['key_score']}",
            byte_size(row["size_bytes"]),
            "–" if row["age_seconds"] is None else duration(row["age_seconds"]),
            " ".join(sorted({_kind(name) for name in row["statistics"]})),
        ]
        # As Text: names are no markup.
        table.add_row(*(Text(cell) for cell in cells), style="red" if row["problem"] else None)
    console.print(table)
    console.print(
        Text(f"{counted(len(rows), 'member')}, {byte_size(sum(row['size_bytes'] for row in rows))}, in {zoo.root}")
    )
    for row in rows:
        if row["problem"]:
            console.print(Text(f"{row['name']}: {row['problem']}", style="red"))
    return 0


def _verify(zoo: Zoo, options: argparse.Namespace, console: Console) -> int:
    entries = zoo.entries()
    problems = {entry.name: entry.verify() for entry in entries}
    broken = {name: found for name, found in problems.items() if found}
    if options.json:
        print(json.dumps(problems, indent=2))
        return 1 if broken else 0
    if not entries:
        _say_empty(zoo, console)
        return 0
    for name, found in broken.items():
        console.print(Text(name, style="bold red"))
        for problem in found:
            console.print(Text(f"  {problem}"), soft_wrap=True)
    if broken:
        console.print(
            f"{len(broken)} of {counted(len(entries), 'member')} broken. "
            "'python -m regmean_lab.zoo prune --broken' removes them; jobs train them again."
        )
        return 1
    console.print(f"{counted(len(entries), 'member')}: all is well.")
    return 0


def _prune(zoo: Zoo, options: argparse.Namespace, console: Console) -> int:
    doomed = _select(zoo, options)
    planned = zoo.prune(doomed, dry_run=True)
    nothing = not (planned.entries or planned.temporary or planned.locks)
    if options.json:
        if not (options.dry_run or options.yes):
            raise ZooError("prune --json does not ask: say --dry-run or --yes with it")
        print(json.dumps(asdict(planned if options.dry_run else zoo.prune(doomed)), indent=2))
        return 0
    if nothing or options.dry_run:
        _show(planned, "Would remove", console)
        if nothing:
            console.print(Text(f"Nothing to remove in {zoo.root}"))
        return 0
    if not options.yes and (planned.entries or planned.temporary):
        _show(planned, "To remove", console)
        if not _confirmed(console):
            console.print("Nothing was removed.")
            return 1
    _show(zoo.prune(doomed), "Removed", console)
    return 0


def _select(zoo: Zoo, options: argparse.Namespace) -> list[ZooEntry]:
    """The members that the options of ``prune`` ask for."""
    entries = zoo.entries()
    known = {name: entry for entry in entries for name in (entry.address, entry.name)}
    problems = []
    for name in options.names:
        if name not in known:
            close = nearest(name, known, most=1, cutoff=0.6)
            problems.append(f"no member '{name}' in {zoo.root}" + (f"; did you mean '{close[0]}'?" if close else ""))
    if problems:
        raise ZooError("\n".join([*problems, "'python -m regmean_lab.zoo list' lists the members"]))
    named = {known[name].name for name in options.names}
    return [
        entry
        for entry in entries
        if entry.name in named
        or (options.older_than is not None and (_row(entry)["age_seconds"] or 0) > options.older_than * 86400)
        or (options.broken and entry.verify())
    ]


def _confirmed(console: Console) -> bool:
    try:
        answer = console.input("Remove this for good? [y/N] ", markup=False)
    except EOFError:
        console.print()
        return False
    return answer.strip().lower() in ("y", "yes")


def _show(pruned: Pruned, verb: str, console: Console) -> None:
    for name in pruned.in_use:
        console.print(Text(f"In use by a job, stays: {name}"))
    for what, names in (("member", pruned.entries), ("left-over folder", pruned.temporary)):
        for name in names:
            console.print(Text(f"{verb}: {what} {name}"))
    if pruned.locks:
        console.print(f"{verb}: {counted(len(pruned.locks), 'lock file')} that no job holds")


def _say_empty(zoo: Zoo, console: Console) -> None:
    where = f"The zoo {zoo.root} is empty" if zoo.root.is_dir() else f"There is no zoo at {zoo.root} yet"
    console.print(Text(f"{where}: the first job that needs a member trains it. Another zoo: --zoo-dir DIR."))


def _row(entry: ZooEntry) -> dict[str, Any]:
    """What ``list`` tells of an entry; ``problem`` is None unless its training record cannot be read."""
    row: dict[str, Any] = {
        "name": entry.name,
        "path": str(entry.path),
        "address": entry.address,
        **dict.fromkeys(("suite", "corpus", "model", "seed", "key_score", "created", "age_seconds", "problem")),
        "dev_scores": {},
        "size_bytes": entry.size_bytes,
        "statistics": [path.stem for path in entry.statistics_files()],
    }
    try:
        training, description = entry.training, entry.description
    except ZooError as error:
        return {**row, "problem": str(error)}
    model = description.get("model")
    created = training.get("created")
    return {
        **row,
        **{name: description.get(name) for name in ("suite", "corpus", "seed")},
        "model": model.get("name") if isinstance(model, Mapping) else model,
        "key_score": training.get("key_score"),
        "dev_scores": entry.dev_scores,
        "created": created,
        "age_seconds": _seconds_since(created),
    }


def _seconds_since(created: object) -> float | None:
    try:
        return (datetime.now(timezone.utc) - datetime.fromisoformat(str(created))).total_seconds()
    except (TypeError, ValueError):
        return None


def _order(row: Mapping[str, Any]) -> tuple[str, ...]:
    seed = row["seed"]
    return (
        *(str(row[name] or "") for name in ("suite", "corpus", "model")),
        f"{seed:020d}" if isinstance(seed, int) else str(seed),
        row["name"],
    )


def _kind(statistics_name: str) -> str:
    return statistics_name.rpartition("-")[0]

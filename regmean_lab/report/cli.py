"""The command ``regmean-lab report``: reads results and writes tables, figures and a page.

``python -m regmean_lab.report`` is the same.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from regmean_lab.config.locations import configuration_root
from regmean_lab.report.entries import Entry, entries_of
from regmean_lab.report.grid import Section, natural_key, sections_of
from regmean_lab.report.read import Found, NoResultsError, Run, find_runs
from regmean_lab.utils.disk import DiskShortage, named_setting
from regmean_lab.utils.names import did_you_mean
from regmean_lab.utils.quantities import counted

EXIT_WRONG = 2
PROGRAM = "python -m regmean_lab.report"
DEFAULT_RESULTS, DEFAULT_REFERENCE = "outputs", "simple"
LISTED = 20
"""At most this many files of a kind are named in a message; of more, only the number."""

KEYS = {
    "results": f"folder with results, or several with commas between; default: {DEFAULT_RESULTS}",
    "table": "a sweep of multirun_sweeps or an experiment: only its results, and what is missing of them",
    "overrides": "what the sweep of table= was run with besides: overrides='model=minilm seed=1,2'",
    "output": "folder for the report; default: the folder report below the first folder with results",
    "title": "title of the page; default: the name of the table, or Results",
    "reference": f"the method that others are compared with; default: {DEFAULT_REFERENCE}",
    "figures": "true or false: whether figures are drawn; default: true",
    "wandb": "project of W&B, or entity/project: tables, figures and page are logged there, as a run of type report",
}


class ArgumentsError(Exception):
    """A command line that cannot be followed; one line for each thing that is wrong."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says; see ``KEYS``."""

    results: tuple[Path, ...] = (Path(DEFAULT_RESULTS),)
    table: str | None = None
    overrides: tuple[str, ...] = ()
    output: Path | None = None
    title: str | None = None
    reference: str = DEFAULT_REFERENCE
    figures: bool = True
    wandb: str | None = None


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command.

    Args:
        arguments: those of the command line unless given.
        program: what the command is called in its help.

    Returns:
        The exit code: 0, or 2 for a wrong command line, when there are no results, or where there is no room for the
        report.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if any(argument in ("-h", "--help") for argument in given):
        print(help_text(program))
        return 0
    try:
        chosen = read_arguments(given)
        found = find_runs(chosen.results)
        sections, notices, left_out = _sections(chosen, found.runs)
    except (ArgumentsError, NoResultsError) as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG
    for message in [*found.problems, *notices]:
        print(f"warning: {message}", file=sys.stderr)
    results = counted(len(_runs_of(sections)), "result")
    print(f"{results} in {counted(len(sections), 'section')}{left_out}", flush=True)
    try:
        path = _write(chosen, found, sections, [*_summarised(found.problems), *notices], given)
    except DiskShortage as error:
        print(named_setting(str(error), error.path, {"output": _folder(chosen)}), file=sys.stderr)
        return EXIT_WRONG
    print(f"Report: {path}")
    return 0


def _folder(chosen: Arguments) -> Path:
    """Where the report is written."""
    return chosen.output or chosen.results[0] / "report"


def completions(finished: Sequence[str], unfinished: str) -> list[str]:
    """What may come after the words of a command line, for shells that complete."""
    if unfinished.startswith("table="):
        folder = configuration_root() / "conf" / "multirun_sweeps"
        return [f"table={path.stem}" for path in sorted(folder.glob("*.yaml"))]
    given = {word.partition("=")[0] for word in finished}
    return [f"{key}=" for key in KEYS if key not in given]


def help_text(program: str = PROGRAM) -> str:
    """How the command is used."""
    width = max(map(len, KEYS)) + 1
    keys = "\n".join(f"  {key + '=':{width}}  {meaning}" for key, meaning in KEYS.items())
    return (
        f"{program} [KEY=VALUE …]\n\n"
        "Reads every result.json below the folders of results= and writes tables (Markdown, CSV, LaTeX),\n"
        "figures (PNG, SVG) and one HTML page.\n\n"
        f"{keys}\n\nExamples:\n  {program} results=outputs\n"
        f"  {program} table=demo results=outputs/demo output=report\n\n"
        "Exit code: 0, or 2 for a wrong command line or where there are no results."
    )


def read_arguments(given: Sequence[str]) -> Arguments:
    """The command line, checked.

    Raises:
        ArgumentsError: with everything that is wrong.
    """
    values: dict[str, str] = {}
    problems = []
    for argument in given:
        key, equals, value = argument.partition("=")
        if key not in KEYS:
            problems.append(f"{argument}: there is no such key; {did_you_mean(key.lstrip('-+'), KEYS)}")
        elif not equals or not value:
            problems.append(f"{argument}: expected {key}=VALUE")
        elif key in values:
            problems.append(f"{argument}: {key} is given twice")
        else:
            values[key] = value
    if values.get("figures", "true").lower() not in ("true", "false"):
        problems.append(f"figures={values['figures']}: expected true or false")
    if "overrides" in values and "table" not in values:
        problems.append("overrides: only together with table=, whose sweep they belong to")
    folders = [part.strip() for part in values.get("results", DEFAULT_RESULTS).strip("[]").split(",") if part.strip()]
    if not folders:
        problems.append("results: expected at least one folder")
    if "wandb" in values:
        if not 1 <= len([part for part in values["wandb"].split("/") if part]) <= 2:
            problems.append(f"wandb={values['wandb']}: expected PROJECT or ENTITY/PROJECT")
        if find_spec("wandb") is None:
            problems.append("wandb: the package wandb is not installed; get it with: pip install wandb")
    if problems:
        raise ArgumentsError("\n".join(problems))
    return Arguments(
        results=tuple(map(Path, folders)),
        table=values.get("table"),
        overrides=tuple(shlex.split(values.get("overrides", ""))),
        output=Path(values["output"]) if "output" in values else None,
        title=values.get("title"),
        reference=values.get("reference", DEFAULT_REFERENCE),
        figures=values.get("figures", "true").lower() == "true",
        wandb=values.get("wandb"),
    )


def _sections(chosen: Arguments, runs: list[Run]) -> tuple[list[Section], list[str], str]:
    """Sections, what a reader should know of them, and what the last line adds."""
    if chosen.table is None:
        sections = sections_of(entries_of(runs))
        return sections, list(dict.fromkeys(notice for section in sections for notice in section.notices)), ""
    # Only a definition needs the whole configuration, which takes seconds to import.
    from regmean_lab.report.definition import DefinitionError, read_definition

    try:
        definition = read_definition(chosen.table, chosen.overrides)
    except DefinitionError as error:
        raise ArgumentsError(str(error)) from None
    entries, other = definition.entries(runs)
    notices = []
    if missing := _missing(entries):
        jobs = len(definition.jobs)
        notices.append(f"{missing} of {jobs} jobs of {chosen.table} have no result: their cells say missing")
    if other:
        paths = ", ".join(str(run.path) for run in other[:3]) + (", …" if len(other) > 3 else "")
        notices.append(
            f"{counted(len(other), 'result')} of the same experiment left out, whose settings no job of "
            f"{chosen.table} has: {paths}"
        )
    sections = sections_of(entries, chosen.table)
    notices += [notice for section in sections for notice in section.notices]
    elsewhere = len(runs) - len(other) - sum(entry.run is not None for entry in entries)
    left_out = f"; {counted(elsewhere, 'result')} of other experiments left out" if elsewhere else ""
    return sections, notices, left_out


def _missing(entries: Sequence[Entry]) -> int:
    return sum(entry.run is None for entry in entries)


def _write(chosen: Arguments, found: Found, sections: list[Section], notices: list[str], given: Sequence[str]) -> Path:
    # matplotlib takes a second to import; a wrong command line is answered before.
    from regmean_lab.report.content import Report, section_contents
    from regmean_lab.report.write import write_report

    runs = _runs_of(sections)
    title = chosen.title or chosen.table or "Results"
    report = Report(
        title=title,
        facts=_facts(runs, found, chosen.results),
        notices=notices,
        sections=section_contents(sections, chosen.reference, chosen.figures),
        runs=runs,
        command=shlex.join([*PROGRAM.split(), *given]),
    )
    folder = _folder(chosen)
    path = write_report(report, sections, folder)
    if chosen.wandb is not None:
        from regmean_lab.config.groups import LoggerConfig
        from regmean_lab.report.wandb_run import log_report  # imports Lightning

        entity, _, project = chosen.wandb.rpartition("/")
        log_report(report, folder, LoggerConfig("wandb", project, entity or None), title)
    return path


def _runs_of(sections: Sequence[Section]) -> list[Run]:
    """All results of some sections, each once, in the order of their paths."""
    runs = {run.path: run for section in sections for column in section.columns for run in column.runs}
    return [runs[path] for path in sorted(runs)]


def _facts(runs: Sequence[Run], found: Found, folders: Sequence[Path]) -> list[tuple[str, str]]:
    facts = [("results", str(len(runs))), ("from", ", ".join(map(str, folders)))]
    if found.problems:
        facts.append(("not readable", str(len(found.problems))))
    for name, plural in (("suite", "suites"), ("model", "models"), ("method", "methods"), ("seed", "seeds")):
        values = sorted({str(getattr(run.result, name)) for run in runs}, key=natural_key)
        if values:
            shown = ", ".join(values) if len(values) <= LISTED else str(len(values))
            facts.append((name if len(values) == 1 else plural, shown))
    return facts


def _summarised(problems: Sequence[str]) -> list[str]:
    if len(problems) <= LISTED:
        return [f"left out: {problem}" for problem in problems]
    rest = f"{len(problems) - LISTED} more files are left out; the command names them all"
    return [*(f"left out: {problem}" for problem in problems[:LISTED]), rest]

"""The records that the jobs of a sweep leave, and the summary made from them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from regmean_lab.config.method_option import option_of
from regmean_lab.results import MERGED_FOLDER, RESULT_FILE, Result, ResultError, read_result, unknown_text, zero_note
from regmean_lab.tracking.sweep_name import COMMAND_VARIABLE, current_sweep
from regmean_lab.utils.files import write_json, write_text
from regmean_lab.utils.quantities import counted

SWEEPS_FOLDER = "sweeps"
TABLE_FILE, FIGURE_FILE = "table.md", "scores.png"
FILE_WIDTH = 160
"""Width of a table in characters where there is no terminal."""


@dataclass(frozen=True)
class JobRecord:
    """How one job of a sweep ended.

    Attributes:
        overrides: what set it apart.
        folder: where it wrote.
        error: why it failed, or None.
        computed: whether its result was computed now, rather than found.
    """

    overrides: list[str]
    folder: str
    error: str | None = None
    computed: bool = False


def console() -> Console:
    """Where tables are printed: as wide as the terminal, if there is one."""
    return Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)


def record_job(output_dir: Path, number: int, record: JobRecord) -> None:
    """Leave a record of a finished or failed job for the summary of its sweep, if it belongs to one."""
    if sweep := current_sweep():
        write_json(output_dir / SWEEPS_FOLDER / sweep / "jobs" / f"{number:05d}.json", vars(record))


def summarise(folder: Path) -> None:
    """Print a sweep's table and its failed jobs, and write both (and a figure) into the sweep's folder.

    Does nothing when no job has left a record (a command that stopped before its first job).
    """
    records = [
        JobRecord(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted((folder / "jobs").glob("*.json"))
    ]
    if not records:
        return
    results = _results(records)
    chosen = [result for result in results if result.selection]
    if chosen:  # those on dev are not compared with those on test
        results = [result for result in results if result.configuration.get("evaluate_on", "test") == "test"]
    if results:
        # pandas and matplotlib take seconds to import.
        from regmean_lab.report.figures import score_figure
        from regmean_lab.report.summary import markdown_table, print_table, score_table

        table = score_table(results, alike=True)
        print_table(table, console())
        write_text(folder / TABLE_FILE, markdown_table(table))

        score_figure(results, folder / FIGURE_FILE)
        computed = sum(record.computed for record in records)
        print(f"{counted(len(results), 'result')}, {computed} computed now.")
        if unknown := _unknown(results):
            print(f"Not predicted, as no member of a job was trained on them (F1 0): {unknown_text(unknown)}")
        zero = (zero_note(result.label, result.scores["in_domain"]) for result in results)
        for note in dict.fromkeys(note for note in zero if note is not None):
            print(f"Note: {note}")
        for result in chosen:
            print(_chosen_line(result))
        print(f"Table and figure: {folder / TABLE_FILE}, {folder / FIGURE_FILE}")
        if len(records) == 1:
            print(f"Result: {Path(records[0].folder) / RESULT_FILE}")
            if (merged := Path(records[0].folder) / MERGED_FOLDER).is_dir():
                print(f"Merged model: {merged}")
        else:
            _report_to_wandb(folder, records)
    tell_failed(records)


def tell_failed(records: Sequence[JobRecord]) -> None:
    """Print the jobs that failed, and how many they are."""
    failed = [record for record in records if record.error is not None]
    for record in failed:
        print(f"\nFAILED: {' '.join(record.overrides)}\n  {record.error}\n  log: {record.folder}", file=sys.stderr)
    if failed:
        kept = "; other results are kept" if len(failed) < len(records) else ""
        print(f"\n{len(failed)} of {counted(len(records), 'job')} failed{kept}.", file=sys.stderr)


def _report_to_wandb(folder: Path, records: Sequence[JobRecord]) -> None:
    """Write a report of a sweep whose jobs were logged to W&B, and log it there too, in the sweep's group."""
    computed = _results([record for record in records if record.computed])
    loggers = [result.configuration.get("logger") or {} for result in computed]
    settings = next((own for own in loggers if own.get("kind") == "wandb"), None)
    if settings is None:
        return
    # Lightning takes seconds to import.
    from regmean_lab.config.groups import LoggerConfig
    from regmean_lab.report.cli import DEFAULT_REFERENCE
    from regmean_lab.report.content import Report, section_contents
    from regmean_lab.report.entries import entries_of
    from regmean_lab.report.grid import sections_of
    from regmean_lab.report.read import find_runs
    from regmean_lab.report.wandb_run import log_report
    from regmean_lab.report.write import write_report

    runs = find_runs([Path(record.folder) for record in records if record.error is None]).runs
    sections = sections_of(entries_of(runs))
    notices = [notice for section in sections for notice in section.notices]
    facts = [("results", str(len(runs))), ("sweep", folder.name)]
    command = os.environ.get(COMMAND_VARIABLE, "")
    report = Report(folder.name, facts, notices, section_contents(sections, DEFAULT_REFERENCE, True), runs, command)
    page = write_report(report, sections, folder / "report")
    try:
        log_report(report, folder / "report", LoggerConfig(**settings), folder.name)
    except Exception as error:  # whatever W&B or the network answers: results and page are there
        print(f"The report could not be logged to W&B: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"Report: {page}")


def _unknown(results: Sequence[Result]) -> dict[str, list[str]]:
    """By corpus, the labels that the members of any of the jobs do not know."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for corpus, labels in (result.unknown_labels or {}).items():
            found.setdefault(corpus, {}).update(dict.fromkeys(labels))
    return {corpus: list(labels) for corpus, labels in found.items()}


def _chosen_line(result: Result) -> str:
    selection = result.selection or {}
    count = f"{len(selection['among'])}"
    if "sampler" in selection:
        failed = f", {selection['failed']} of which failed" if selection["failed"] else ""
        count = f"{selection['trials']} trials by {selection['sampler']}, seed {selection['seed']}{failed}"
    return (
        f"{result.label} of {'+'.join(result.members)}, seed {result.seed}: {selection['chosen']} was chosen on "
        f"{selection['on']} (mean score {selection['score']:.2f}, the best of {count})"
    )


def _results(records: Sequence[JobRecord]) -> list[Result]:
    results = []
    for record in records:
        if record.error is None:
            try:
                result = read_result(Path(record.folder) / RESULT_FILE)
                option = option_of(record.overrides, result.method, result.method_option)
                results.append(replace(result, method_option=option))  # it may have been computed by another name
            except ResultError as error:
                print(error, file=sys.stderr)
    return results

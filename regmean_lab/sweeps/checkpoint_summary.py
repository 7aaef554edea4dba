"""What jobs on somebody's checkpoints have written and measured: of one job, and of all of a sweep in one table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.config.checkpoint_commands import Measured
from regmean_lab.results import RESULT_FILE, Result, ResultError, mean, read_result
from regmean_lab.sweeps.summary import SWEEPS_FOLDER, TABLE_FILE, JobRecord, console, tell_failed
from regmean_lab.tracking.sweep_name import current_sweep
from regmean_lab.utils.files import write_json, write_text
from regmean_lab.utils.quantities import byte_size, counted

if TYPE_CHECKING:
    from regmean_lab.report.summary import Texts
    from regmean_lab.report.tables import Cell, Table

NOT_SHOWN = ("experiment", "paths", "trainer", "output", "push", "private", "force", "max_shard_size")
"""Settings that make no merge another one."""


@dataclass(frozen=True)
class CheckpointRecord(JobRecord):
    """How one job on checkpoints ended.

    Attributes:
        name: what it is called: its method or recipe.
        configuration: its configuration.
        seconds: how long it took.
        written: the folder of the model that it wrote, if it wrote one.
        places: folders of its results; of a merge those of the merged model are the last.
        merged: how many of them are.
    """

    name: str = ""
    configuration: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    written: str | None = None
    places: list[str] = field(default_factory=list)
    merged: int = 1


def record_checkpoint_job(output_dir: Path, number: int, record: CheckpointRecord) -> None:
    """Leave a record of a job for the summary of its sweep."""
    if sweep := current_sweep():
        write_json(output_dir / SWEEPS_FOLDER / sweep / "jobs" / f"{number:05d}.json", asdict(record))


def ended_line(name: str, measured: Measured | None, seconds: float) -> str:
    """How a job of a sweep ended, in one line."""
    said = [f"{name}: {seconds:.1f} s"]
    if measured is not None:
        said += [] if measured.written is None else [f"written to {measured.written}"]
        own = measured.results[-measured.merged :] if measured.written is not None else measured.results
        said += [f"{result.label} {result.mean_in_domain:.2f}" for result in own]
    return ", ".join(said)


def write_table(measured: Measured) -> Table:
    """The table of what one job has measured, which is written beside it with what else was found."""
    from regmean_lab.report.summary import markdown_table, score_table  # imports pandas

    table = score_table(measured.results)
    write_text(
        measured.folder / TABLE_FILE, "\n".join([markdown_table(table), *(f"- {line}" for line in measured.lines)])
    )
    return table


def show_measured(measured: Measured) -> None:
    """Print the table of what a job on somebody's checkpoints has measured, write it, and say where it lies."""
    from regmean_lab.report.summary import print_table

    print_table(write_table(measured), console())
    for line in measured.lines:
        print(line)
    print(f"Results and table: {measured.folder}")


def summarise_checkpoints(folder: Path) -> None:
    """Print the table of all jobs of a sweep and what failed, and write the table into the sweep's folder.

    Does nothing when no job has left a record.
    """
    paths = sorted((folder / "jobs").glob("*.json"))
    records = [CheckpointRecord(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    ended = [(record, _results(record)) for record in records if record.error is None]
    if any(record.written is not None or results for record, results in ended):
        from regmean_lab.report.summary import markdown_table, print_table, score_table

        more: Texts = ()
        if any(record.written is not None for record, _ in ended):
            table, more = _merge_table(ended)
        else:
            table = score_table([result for _, results in ended for result in results])
        print_table(table, console(), more)
        write_text(folder / TABLE_FILE, markdown_table(table, more))
        print(f"{counted(len(ended), 'job')}. Table: {folder / TABLE_FILE}")
    tell_failed(records)


def _merge_table(ended: Sequence[tuple[CheckpointRecord, list[Result]]]) -> tuple[Table, Texts]:
    """A row for each model that merges are compared with, and below one for each merge."""
    from regmean_lab.report.entries import flat_settings
    from regmean_lab.report.rows import labels_of
    from regmean_lab.report.summary import MEAN_IN, score_name
    from regmean_lab.report.tables import Heading, Table

    labels = labels_of([(record.name, flat_settings(_told(record.configuration))) for record, _ in ended])
    compared = {
        (result.method, result.model_fingerprint, result.data_fingerprint): result
        for record, results in ended
        for result in results[: -record.merged]
    }
    merged = [results[-record.merged :] for record, results in ended]
    scored = [*compared.values(), *(result for results in merged for result in results)]
    corpora = list(dict.fromkeys(corpus for result in scored for corpus in result.scores["in_domain"]))
    others = [
        (result.method, {"weights": result.model_fingerprint[:10], "data": result.data_fingerprint[:10]})
        for result in compared.values()
    ]
    rows = [(name, _cells([one], corpora)) for name, one in zip(labels_of(others), compared.values(), strict=True)]
    rows += [(label, _cells(results, corpora)) for label, results in zip(labels, merged, strict=True)]
    empty = [""] * len(compared)
    more = [
        ("size", [*empty, *(byte_size(_size(record.written)) for record, _ in ended)]),
        ("time", [*empty, *(f"{record.seconds:.1f} s" for record, _ in ended)]),
        ("written to", [*empty, *(record.written or "" for record, _ in ended)]),
    ]
    title = counted(len(ended), "merge") + (f"; {score_name(scored)} × 100" if scored else "")
    headings = [Heading("", name) for name in (*corpora, MEAN_IN)] if corpora else []
    return Table("table", title, "method", headings, rows), more


def _cells(results: Sequence[Result], corpora: Sequence[str]) -> list[Cell]:
    """Scores of one model, whose heads may have results of their own, on each corpus; and their mean."""
    from regmean_lab.report.tables import Cell

    if not corpora:
        return []
    scores = {name: score for result in results for name, score in result.scores["in_domain"].items()}
    return [*(Cell(scores.get(name)) for name in corpora), Cell(mean(result.mean_in_domain for result in results))]


def _told(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that tell one merge from another."""
    return {key: value for key, value in configuration.items() if key not in NOT_SHOWN}


def _size(written: str | None) -> int:
    """Bytes of all files of a folder."""
    return 0 if written is None else sum(path.stat().st_size for path in Path(written).rglob("*") if path.is_file())


def _results(record: CheckpointRecord) -> list[Result]:
    found = []
    for place in record.places:
        try:
            found.append(read_result(Path(place) / RESULT_FILE))
        except ResultError as error:
            print(error, file=sys.stderr)
            return []
    return found

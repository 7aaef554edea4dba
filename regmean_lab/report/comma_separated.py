"""Tables, tests and single results as CSV (UTF-8, comma, RFC 4180 quoting), unrounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from regmean_lab.report.distance_table import MEASURES
from regmean_lab.report.entries import Entry, command_of
from regmean_lab.report.grid import Column, Section
from regmean_lab.report.significance import Comparison
from regmean_lab.report.tables import Table

RUN_HEADINGS = (
    "table", "row", "experiment", "suite", "model", "method", "members", "seed", "head_init", "state",
    "mean_in_domain", "mean_out_of_domain", "seconds", "path", "command",
    "gap_closed", "gap_closed_tempered", "gap_closed_out_of_domain", "agreement", "statistics_bytes",
)  # fmt: skip
TEST_HEADINGS = (
    "column", "domain", "row", "reference", "n", "difference", "low", "high", "p", "p_holm", "reason",
)  # fmt: skip


def csv_table(table: Table) -> str:
    """A table: for each column the mean, the standard deviation, and how many results there are and should be."""
    parts = ("mean", "deviation", "results", "expected")
    head = [table.corner, *(f"{heading.full}: {part}" for heading in table.headings for part in parts)]
    lines = [
        [label, *(part for cell in cells for part in (cell.mean, cell.deviation, cell.runs, cell.expected))]
        for label, cells in table.rows
    ]
    return _written(head, lines)


def csv_tests(comparisons: Sequence[Comparison]) -> str:
    """Comparisons with a reference."""
    lines = []
    for one in comparisons:
        test = one.test
        numbers = [test.pairs, test.difference, test.low, test.high, test.probability] if test else [None] * 5
        lines.append([one.column, one.domain, one.label, one.reference, *numbers, one.adjusted, one.reason])
    return _written(TEST_HEADINGS, lines)


def csv_runs(sections: Iterable[Section]) -> str:
    """One line for each result and for each missing one, with the command that runs its job."""
    lines = [
        [section.name, row.label, *_run(column, entry)]
        for section in sections
        if not section.across  # whose results are those of other sections
        for column in section.columns
        for row in column.rows
        for entry in row.entries.values()
    ]
    return _written(RUN_HEADINGS, lines)


def _run(column: Column, entry: Entry) -> list[Any]:
    settings = column.settings
    line: list[Any] = [entry.experiment, settings["suite.name"], settings["model.name"], entry.method]
    line += ["+".join(entry.members), entry.seed, settings.get("head_init")]
    if entry.run is None:
        return [*line, "missing", None, None, None, None, entry.command, *[None] * len(MEASURES), None]
    result = entry.run.result
    seconds = sum(part for part in result.seconds.values() if isinstance(part, int | float))
    means = [result.mean_in_domain, result.mean_out_of_domain]
    compared = result.divergence or {}
    kept = [compared.get(name) for name in MEASURES.values()]
    size = None if result.statistics_bytes is None else sum(result.statistics_bytes.values())
    return [*line, "measured", *means, seconds, entry.run.path, command_of(entry.run), *kept, size]


def _written(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    # Of type object, so that counts stay integers beside what is missing.
    text: str = pd.DataFrame(lines, columns=list(head), dtype=object).to_csv(index=False, lineterminator="\n")
    return text

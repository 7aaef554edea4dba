"""Tables, tests and single results as CSV (UTF-8, comma, RFC 4180 quoting)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from regmean_lab.report.entries import command_of
from regmean_lab.report.grid import Section
from regmean_lab.report.significance import Comparison
from regmean_lab.report.tables import Table

RUN_HEADINGS = (
    "table", "row", "experiment", "suite", "model", "method", "members", "seed", "head_init", "state",
    "mean_in_domain", "mean_out_of_domain", "seconds", "path", "command",
)  # fmt: skip
TEST_HEADINGS = (
    "column", "domain", "row", "reference", "n", "difference", "low", "high", "p", "p_holm", "reason",
)  # fmt: skip


def csv_table(table: Table) -> str:
    """A table: for each column the mean, the standard deviation, and how many results there are and should be."""
    head = [table.corner]
    for heading in table.headings:
        head += [f"{heading.full}: {part}" for part in ("mean", "deviation", "results", "expected")]
    lines: list[list[object]] = []
    for label, cells in table.rows:
        numbers = [part for cell in cells for part in (cell.mean, cell.deviation, cell.runs, cell.expected)]
        lines.append([label, *numbers])
    return _written(head, lines)


def csv_tests(comparisons: Sequence[Comparison]) -> str:
    """Comparisons with a reference, unrounded."""
    lines: list[list[object]] = []
    for one in comparisons:
        test = one.test
        numbers: list[object] = [None] * 5
        if test is not None:
            numbers = [test.pairs, test.difference, test.low, test.high, test.probability]
        lines.append([one.column, one.domain, one.label, one.reference, *numbers, one.adjusted, one.reason])
    return _written(TEST_HEADINGS, lines)


def csv_runs(sections: Iterable[Section]) -> str:
    """One line for each result and for each missing one, with the command that runs its job."""
    lines: list[list[object]] = []
    for section in sections:
        for column in section.columns:
            for row in column.rows:
                for entry in row.entries.values():
                    line: list[object] = [section.name, row.label, entry.experiment]
                    line += [column.settings["suite.name"], column.settings["model.name"], entry.method]
                    line += ["+".join(entry.members), entry.seed, column.settings.get("head_init")]
                    if entry.run is None:
                        lines.append([*line, "missing", None, None, None, None, entry.command])
                        continue
                    result = entry.run.result
                    seconds = sum(part for part in result.seconds.values() if isinstance(part, int | float))
                    line += ["measured", result.mean_in_domain, result.mean_out_of_domain, seconds, entry.run.path]
                    lines.append([*line, command_of(entry.run)])
    return _written(RUN_HEADINGS, lines)


def _written(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()

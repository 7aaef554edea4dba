"""How far merges are from their members, as a table: gap closed, and agreement."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from regmean_lab.report.grid import Column, Key, Row, Section
from regmean_lab.report.tables import Heading, Table, cells_of
from regmean_lab.results import Result

GAP, AGREEMENT = "gap closed", "agreement"
TEMPERED, OUTSIDE = f"{GAP} after one temperature", f"{GAP} out of domain"
MEASURES: Mapping[str, str] = {
    GAP: "gap_closed",
    TEMPERED: "gap_closed_tempered",
    OUTSIDE: "gap_closed_out_of_domain",
    AGREEMENT: "agreement",
}
"""Columns of the table, and the key of each in a result's ``divergence``; of all of them more is better."""

WHAT = (
    "How much of the KL divergence between the members and the mean of their weights a merge closes: 0 is the mean, "
    "100 the members; on the members' test data, there after one temperature chosen on dev, and out of domain from the "
    "mean of the members' distributions. Agreement is the share of predictions that are the member's"
)


def distances_of(result: Result) -> dict[str, float]:
    """What was measured of a merge, by column of the table; nothing of a result without."""
    compared = result.divergence or {}
    return {name: compared[key] for name, key in MEASURES.items() if compared.get(key) is not None}


def by_key_of_measure(row: Row, measure: str) -> dict[Key, float]:
    """A row's values of one measure by members and seed."""
    found = {key: distances_of(entry.run.result).get(measure) for key, entry in row.entries.items() if entry.run}
    return {key: value for key, value in found.items() if value is not None}


def measures_of(column: Column) -> list[str]:
    """Which measures any result of a column has."""
    found = {measure for run in column.runs for measure in distances_of(run.result)}
    return [measure for measure in MEASURES if measure in found]


def distance_table(section: Section, name: str) -> Table | None:
    """Means over sets of members: rows methods, columns what was measured; None where nothing was.

    Args:
        section: the section.
        name: stem of the table's files.
    """
    headings = [(column, measure) for column in section.columns for measure in measures_of(column)]
    rows = {label: [column.row(label) for column, _ in headings] for label in section.row_labels}
    labels = [
        label
        for label, own in rows.items()
        if any(row and by_key_of_measure(row, measure) for row, (_, measure) in zip(own, headings, strict=True))
    ]
    if not labels:
        return None
    keys = [
        dict.fromkeys(key for row in column.rows for key in by_key_of_measure(row, measure))
        for column, measure in headings
    ]
    lines: list[tuple[object, ...]] = []
    for place, label in enumerate(labels):
        for number, ((_, measure), row) in enumerate(zip(headings, rows[label], strict=True)):
            known = keys[number]
            found = [] if row is None else _lines(row, measure, known, section.defined)
            lines += [(place, number, *line) for line in found]
    columns = ["row", "column", "members", "seed", "score", "run", "command"]
    frame = pd.DataFrame(lines, columns=columns).astype({"score": float})
    cells = cells_of(frame, len(labels), len(headings))
    return Table(
        name,
        f"{section.name}: distance from the members",
        "method",
        [Heading(column.label, measure) for column, measure in headings],
        list(zip(labels, cells, strict=True)),
        what=WHAT,
        unit="in percent",
    )


def _lines(row: Row, measure: str, known: Mapping[Key, None], defined: bool) -> list[tuple[object, ...]]:
    """A row's values of one measure, and what is missing of a row of which something is there.

    Args:
        row: the row.
        measure: the measure.
        known: members and seeds of which any row of the column has it.
        defined: whether a definition says what there should be; else that is what other rows have.
    """
    values = by_key_of_measure(row, measure)
    lines: list[tuple[object, ...]] = []
    for key in row.entries if defined else dict.fromkeys([*row.entries, *known]):
        entry = row.entries.get(key)
        if key in values and entry is not None:
            lines.append((*key, values[key], entry.run, ""))
        elif values and (key in known or (defined and entry is not None and entry.run is None)):
            lines.append((*key, None, None, entry.command if defined and entry is not None else ""))
    return lines

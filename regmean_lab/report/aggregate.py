"""Cells and tables: means over members, means and standard deviations over seeds, and what is missing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from regmean_lab.report.grid import Column, Key, Row, Section, count_text
from regmean_lab.report.read import Run

IN_DOMAIN, OUT_OF_DOMAIN = "in domain", "out of domain"
BOTH = (IN_DOMAIN, OUT_OF_DOMAIN)
NOT_APPLICABLE, MISSING = "–", "missing"

Score = Callable[[Run], float | None]


@dataclass(frozen=True)
class Absent:
    """A job that should have contributed to a cell and has not."""

    members: tuple[str, ...]
    seed: int
    command: str


@dataclass(frozen=True)
class ReportCell:
    """What one place of a table shows.

    Attributes:
        mean: mean over seeds of each seed's mean over sets of members; None where nothing was measured.
        deviation: sample standard deviation of these means of seeds; None for a single seed.
        seeds: number of seeds.
        scores: the results behind it, and the score of each.
        absent: jobs that belong here and have no score.
    """

    mean: float | None
    deviation: float | None
    seeds: int
    scores: tuple[tuple[Run, float], ...]
    absent: tuple[Absent, ...]

    @property
    def runs(self) -> int:
        """Number of results behind the cell."""
        return len(self.scores)

    @property
    def expected(self) -> int:
        """Number of results that belong here."""
        return len(self.scores) + len(self.absent)

    @property
    def state(self) -> Literal["complete", "incomplete", "missing", "not applicable"]:
        """Whether all results that belong here are there."""
        if self.mean is None:
            return "missing" if self.absent else "not applicable"
        return "incomplete" if self.absent else "complete"

    @property
    def mean_text(self) -> str:
        """The mean as tables show it; what stands there instead where there is none."""
        if self.mean is None:
            return MISSING if self.absent else NOT_APPLICABLE
        return f"{self.mean:.2f}"

    def count_text(self, common: int | None) -> str:
        """How many results there are, where it is not the ``common`` number that the caption states."""
        if self.absent:
            return f" ({self.runs} of {self.expected})"
        return "" if common is not None else f" ({self.runs})"


@dataclass(frozen=True)
class Heading:
    """Heading of one column of a table: what it belongs to, and its own name."""

    group: str
    name: str

    @property
    def full(self) -> str:
        """Both in one line."""
        return f"{self.group}, {self.name}" if self.group else self.name


@dataclass(frozen=True)
class ReportTable:
    """One table, ready to be written in any form.

    Attributes:
        name: stem of its files.
        title: what it shows.
        caption: what its numbers are.
        corner: heading of the column of row labels.
        headings: headings of the other columns.
        rows: labels and cells.
        best_of: whether the best score of each column or of each row is marked.
    """

    name: str
    title: str
    caption: str
    corner: str
    headings: list[Heading]
    rows: list[tuple[str, list[ReportCell]]]
    best_of: Literal["column", "row"] = "column"

    @property
    def best(self) -> set[tuple[int, int]]:
        """Places (row, column) of the best scores, of which only complete ones are compared.

        Scores that look equal are equally good.
        """
        places = [(r, c) for r in range(len(self.rows)) for c in range(len(self.headings))]
        marked: set[tuple[int, int]] = set()
        for number in range(len(self.headings) if self.best_of == "column" else len(self.rows)):
            line = [place for place in places if place[self.best_of == "column"] == number]
            complete = [place for place in line if self._cell(place).state == "complete"]
            if len(complete) > 1:
                highest = max(complete, key=lambda place: self._cell(place).mean or 0.0)
                marked |= {p for p in complete if self._cell(p).mean_text == self._cell(highest).mean_text}
        return marked

    @property
    def common_runs(self) -> int | None:
        """The number of results behind every complete score, if it is the same for all."""
        counts = {cell.runs for _, cells in self.rows for cell in cells if cell.state == "complete"}
        return counts.pop() if len(counts) == 1 else None

    def _cell(self, place: tuple[int, int]) -> ReportCell:
        return self.rows[place[0]][1][place[1]]


def overview(section: Section, name: str) -> ReportTable:
    """Means in and out of domain: rows methods, columns the section's columns."""
    outside = {c.settings["suite.name"] for c in section.columns if OUT_OF_DOMAIN in domains_of(c)}
    shown = [
        (column, domain)
        for column in section.columns
        for domain in (BOTH if not _runs(column) and column.settings["suite.name"] in outside else domains_of(column))
    ]
    rows = [
        (label, [_cell(column, label, score_of(domain), section.defined, _everywhere) for column, domain in shown])
        for label in section.row_labels
    ]
    return _table(
        name,
        f"{section.name}: mean scores",
        "method",
        [Heading(column.label, domain) for column, domain in shown],
        rows,
        "Means over the members, and over the corpora out of domain",
    )


def corpus_table(section: Section, column: Column, name: str) -> ReportTable:
    """Scores on each corpus: rows methods, columns corpora, averaged over the sets of members that include them."""
    found: dict[tuple[str, str], None] = {}
    for run in _runs(column):
        for domain, own in zip(BOTH, ("in_domain", "out_of_domain"), strict=True):
            found |= {(domain, corpus): None for corpus in run.result.scores[own]}
    shown = sorted(found, key=lambda place: place[0] != IN_DOMAIN)
    rows = [
        (
            row.label,
            [
                _cell(column, row.label, corpus_score(domain, corpus), section.defined, _naming(domain, corpus))
                for domain, corpus in shown
            ],
        )
        for row in column.rows
    ]
    return _table(
        name,
        f"{section.name}: scores by corpus ({column.title})",
        "method",
        [Heading(domain, corpus) for domain, corpus in shown],
        rows,
        "Scores on each corpus",
    )


def members_table(section: Section, column: Column, domain: str, name: str) -> ReportTable:
    """Means of one domain for each set of members: rows sets, columns methods."""
    rows = []
    for members in column.member_sets:
        own = Column(column.label, column.title, column.settings, column.count, _only(column.rows, members))
        cells = [_cell(own, row.label, score_of(domain), section.defined, _everywhere) for row in column.rows]
        rows.append((" + ".join(members), cells))
    return _table(
        name,
        f"{section.name}: mean scores {domain} by members ({column.title})",
        "members",
        [Heading("", row.label) for row in column.rows],
        rows,
        f"Means {domain} for each set of members",
        best_of="row",
    )


def domains_of(column: Column) -> list[str]:
    """In domain, and out of domain where anything was measured there."""
    outside = any(run.result.mean_out_of_domain is not None for run in _runs(column))
    return list(BOTH) if outside else [IN_DOMAIN]


def score_of(domain: str) -> Score:
    """The mean score of a result in one domain."""
    if domain == IN_DOMAIN:
        return lambda run: run.result.mean_in_domain
    return lambda run: run.result.mean_out_of_domain


def corpus_score(domain: str, corpus: str) -> Score:
    """The score of a result on one corpus."""
    part = "in_domain" if domain == IN_DOMAIN else "out_of_domain"
    return lambda run: run.result.scores[part].get(corpus)


def row_cell(row: Row, score: Score) -> ReportCell:
    """The cell of a row by itself: what is missing is not asked."""
    return _summary([(key, run, value) for key, run, value in _values(row, score)], ())


def by_key(row: Row, score: Score) -> dict[Key, float]:
    """A row's scores by members and seed."""
    return {key: value for key, _, value in _values(row, score)}


Applies = Callable[[tuple[str, ...]], bool]
"""Whether a set of members, of which nothing was measured, would have had a score."""


def _everywhere(members: tuple[str, ...]) -> bool:
    return True


def _naming(domain: str, corpus: str) -> Applies:
    return lambda members: (corpus in members) == (domain == IN_DOMAIN)


def _cell(column: Column, label: str, score: Score, defined: bool, applies: Applies) -> ReportCell:
    """The cell of a row in a column.

    What belongs there are the entries of the row where a definition says which there are, and else the members and
    seeds of all rows of the column, so that rows can be compared.
    """
    row = column.row(label)
    values = _values(row, score) if row is not None else []
    measured: dict[tuple[str, ...], bool] = {}
    for other in column.rows:
        for (members, _), entry in other.entries.items():
            if entry.run is not None:
                measured[members] = measured.get(members, False) or score(entry.run) is not None
    if defined:
        belonging = {} if row is None else {key: entry.command for key, entry in row.entries.items()}
    else:
        belonging = dict.fromkeys(column.keys, "")
    have = {key for key, _, _ in values}
    absent = [
        Absent(*key, command)
        for key, command in belonging.items()
        if key not in have and measured.get(key[0], applies(key[0]))
    ]
    return _summary(values, absent)


def _summary(values: Sequence[tuple[Key, Run, float]], absent: Iterable[Absent]) -> ReportCell:
    by_seed: dict[int, list[float]] = {}
    for (_, seed), _, value in values:
        by_seed.setdefault(seed, []).append(value)
    means = [statistics.fmean(own) for own in by_seed.values()]
    return ReportCell(
        mean=statistics.fmean(means) if means else None,
        deviation=statistics.stdev(means) if len(means) > 1 else None,
        seeds=len(means),
        scores=tuple((run, value) for _, run, value in values),
        absent=tuple(absent),
    )


def _values(row: Row, score: Score) -> list[tuple[Key, Run, float]]:
    return [
        (key, entry.run, value)
        for key, entry in row.entries.items()
        if entry.run is not None and (value := score(entry.run)) is not None
    ]


def _only(rows: Iterable[Row], members: tuple[str, ...]) -> list[Row]:
    return [
        Row(row.label, row.method, row.settings, {key: e for key, e in row.entries.items() if key[0] == members})
        for row in rows
    ]


def _runs(column: Column) -> list[Run]:
    return [entry.run for row in column.rows for entry in row.entries.values() if entry.run is not None]


def _table(
    name: str,
    title: str,
    corner: str,
    headings: list[Heading],
    rows: list[tuple[str, list[ReportCell]]],
    what: str,
    best_of: Literal["column", "row"] = "column",
) -> ReportTable:
    every = [cell for _, cells in rows for cell in cells]
    seeds = {cell.seeds for cell in every if cell.state == "complete"}
    incomplete = any(cell.state == "incomplete" for cell in every)
    table = ReportTable(name, title, "", corner, headings, rows, best_of)
    parts = [f"{what}, key score × 100"]
    if any(cell.deviation is not None for cell in every):
        parts[0] += ", ± sample standard deviation over seeds"
    if (runs := table.common_runs) is not None:
        over = f" ({count_text(seeds.pop(), 'seed')})" if len(seeds) == 1 else ""
        which = "complete score" if incomplete else "score"
        parts.append(f"Every {which} is of {count_text(runs, 'result')}{over}")
    else:
        parts.append("Beside each score stands the number of results")
    if table.best:
        parts.append(f"The best of each {best_of} is bold")
    if incomplete:
        parts.append("A score of which results are missing says how many there are, and is not compared")
    return ReportTable(name, title, ". ".join(parts) + ".", corner, headings, rows, best_of)

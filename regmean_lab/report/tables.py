"""Tables of scores by pandas: one line for each score in a long data frame, averaged into cells, and laid out.

The report's tables and the table at the end of a sweep (``summary.py``) are both made of :func:`cells_of`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from regmean_lab.report.grid import Column, Key, Row, Section
from regmean_lab.report.read import Run
from regmean_lab.utils.quantities import counted

IN_DOMAIN, OUT_OF_DOMAIN = "in domain", "out of domain"
BOTH = (IN_DOMAIN, OUT_OF_DOMAIN)
MEAN = ""
"""Stands instead of a corpus for the mean over corpora."""
NOT_APPLICABLE, MISSING = "–", "missing"

Place = tuple[str, str]
"""What a score is of: domain, and corpus or ``MEAN``."""


class Absent(NamedTuple):
    """A job that should have contributed to a cell and has not."""

    members: tuple[str, ...]
    seed: int
    command: str


@dataclass(frozen=True)
class Cell:
    """What one place of a table shows.

    Attributes:
        mean: mean of ``means``; None where nothing was measured.
        deviation: their sample standard deviation; None for a single one.
        means: each seed's mean over sets of members.
        scores: the results behind it, and the score of each.
        absent: jobs that belong here and have no score.
    """

    mean: float | None = None
    deviation: float | None = None
    means: tuple[float, ...] = ()
    scores: tuple[tuple[Run, float], ...] = ()
    absent: tuple[Absent, ...] = ()

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.means)

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

    @property
    def text(self) -> str:
        """``87.31``, or ``87.31 ± 0.42`` for several seeds."""
        return self.mean_text if self.deviation is None else f"{self.mean_text} ± {self.deviation:.2f}"

    def count_text(self, common: int | None) -> str:
        """How many results there are, where it is not the ``common`` number that the caption states."""
        if self.absent:
            return f" ({self.runs} of {self.expected})"
        return "" if common is not None else f" ({self.runs})"


class Heading(NamedTuple):
    """Heading of one column of a table: what it belongs to, and its own name."""

    group: str
    name: str

    @property
    def full(self) -> str:
        """Both in one line."""
        return f"{self.group}, {self.name}" if self.group else self.name


@dataclass(frozen=True)
class Table:
    """One table, ready to be written in any form.

    Attributes:
        name: stem of its files.
        title: what it shows.
        corner: heading of the column of row labels.
        headings: headings of the other columns.
        rows: labels and cells.
        best_of: whether the best score of each column or of each row is marked.
        what: what its numbers are, the beginning of the caption.
        unit: of its numbers.
    """

    name: str
    title: str
    corner: str
    headings: list[Heading]
    rows: list[tuple[str, list[Cell]]]
    best_of: Literal["column", "row"] = "column"
    what: str = ""
    unit: str = "key score × 100"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """What neighbouring headings belong to, and how many they are; none where no heading belongs to anything."""
        if not any(heading.group for heading in self.headings):
            return []
        return [(group, len(list(own))) for group, own in itertools.groupby(self.headings, lambda h: h.group)]

    @property
    def group_starts(self) -> list[int]:
        """The first column of each of ``groups``."""
        return list(itertools.accumulate([width for _, width in self.groups][:-1], initial=0)) if self.groups else []

    @property
    def best(self) -> set[tuple[int, int]]:
        """Places (row, column) of the best scores, of which only complete ones are compared.

        Scores that look equal are equally good; where all of them do, none is marked.
        """
        complete = pd.Series(
            {
                (r, c): cell.mean
                for r, (_, cells) in enumerate(self.rows)
                for c, cell in enumerate(cells)
                if cell.state == "complete"
            },
            dtype=float,
        )
        marked: set[tuple[int, int]] = set()
        if not complete.empty:
            for _, line in complete.groupby(level=int(self.best_of == "column")):
                shown = line.map("{:.2f}".format)
                if shown.nunique() > 1:
                    marked |= set(line.index[shown == shown[line.idxmax()]])
        return marked

    @property
    def common_runs(self) -> int | None:
        """The number of results behind every complete score, if it is the same for all."""
        counts = {cell.runs for _, cells in self.rows for cell in cells if cell.state == "complete"}
        return counts.pop() if len(counts) == 1 else None

    @property
    def caption(self) -> str:
        """What the numbers are, in words."""
        every = [cell for _, cells in self.rows for cell in cells]
        seeds = {cell.seeds for cell in every if cell.state == "complete"}
        incomplete = any(cell.state == "incomplete" for cell in every)
        parts = [f"{self.what}, {self.unit}"]
        if any(cell.deviation is not None for cell in every):
            parts[0] += ", ± sample standard deviation over seeds"
        if (runs := self.common_runs) is not None:
            over = f" ({counted(seeds.pop(), 'seed')})" if len(seeds) == 1 else ""
            which = "complete score" if incomplete else "score"
            parts.append(f"Every {which} is of {counted(runs, 'result')}{over}")
        else:
            parts.append("Beside each score stands the number of results")
        if self.best:
            parts.append(f"The best of each {self.best_of} is bold")
        if incomplete:
            parts.append("A score of which results are missing says how many there are, and is not compared")
        return ". ".join(parts) + "."


def overview(section: Section, name: str) -> Table:
    """Means in and out of domain: rows methods, columns the section's columns."""
    outside = {c.settings["suite.name"] for c in section.columns if OUT_OF_DOMAIN in domains_of(c)}
    labels, frames = section.row_labels, []
    headings: list[Heading] = []
    for column in section.columns:
        both = not column.runs and column.settings["suite.name"] in outside
        lines = lines_of(column, labels, section.defined)
        for domain in BOTH if both else domains_of(column):
            own = lines[(lines["domain"] == domain) & (lines["corpus"] == MEAN)]
            frames.append(own.assign(column=len(headings)))
            headings.append(Heading(column.label, domain))
    frame = pd.concat(frames)
    rows = _rows(labels, cells_of(frame.assign(row=frame["label"].map(labels.index)), len(labels), len(headings)))
    what = "Means over the members, and over the out-of-domain corpora"
    return Table(name, f"{section.name}: mean scores", "method", headings, rows, what=what)


def corpus_table(section: Section, column: Column, name: str) -> Table:
    """Scores on each corpus: rows methods, columns corpora, averaged over the sets of members that include them."""
    labels = [row.label for row in column.rows]
    found = dict.fromkeys(
        (domain, corpus)
        for run in column.runs
        for domain, part in zip(BOTH, ("in_domain", "out_of_domain"), strict=True)
        for corpus in run.result.scores[part]
    )
    places = sorted(found, key=lambda place: place[0] != IN_DOMAIN)
    lines = lines_of(column, labels, section.defined)
    lines = lines[lines["corpus"] != MEAN]
    lines = lines.assign(
        row=lines["label"].map(labels.index),
        column=[places.index(place) for place in zip(lines["domain"], lines["corpus"], strict=True)],
    )
    rows = _rows(labels, cells_of(lines, len(labels), len(places)))
    title = f"{section.name}: scores by corpus ({column.title})"
    return Table(name, title, "method", [Heading(*place) for place in places], rows, what="Scores on each corpus")


def members_table(section: Section, column: Column, domain: str, name: str) -> Table:
    """Means of one domain for each set of members: rows sets, columns methods."""
    labels, sets = [row.label for row in column.rows], column.member_sets
    lines = lines_of(column, labels, section.defined)
    lines = lines[(lines["domain"] == domain) & (lines["corpus"] == MEAN)]
    lines = lines.assign(row=lines["members"].map(sets.index), column=lines["label"].map(labels.index))
    rows = _rows([" + ".join(members) for members in sets], cells_of(lines, len(sets), len(labels)))
    title = f"{section.name}: mean scores {domain} by members ({column.title})"
    what = f"Means {domain} for each set of members"
    return Table(name, title, "members", [Heading("", label) for label in labels], rows, "row", what)


def lines_of(column: Column, labels: Iterable[str], defined: bool) -> pd.DataFrame:
    """A column's scores as a long data frame, with a line without score (NaN) for each that is missing.

    What belongs there are the entries of a row where a definition says which there are, and else the members and
    seeds of all rows of the column, so that rows can be compared.

    Args:
        column: the column.
        labels: its rows, and others that should be there.
        defined: whether a definition says which entries there should be.
    """
    places: dict[tuple[str, ...], dict[Place, None]] = {}
    for row in column.rows:
        for (members, _), entry in row.entries.items():
            if entry.run is not None:
                places.setdefault(members, {}).update(dict.fromkeys(scores_of(entry.run)))
    shown = dict.fromkeys(place for own in places.values() for place in own)
    lines = []
    for label in labels:
        own_row = column.row(label)
        entries = {} if own_row is None else own_row.entries
        # Measured ones first, in the order of the row, as a reader of a cell's details expects them.
        for key in entries if defined else dict.fromkeys([*entries, *column.keys]):
            members, seed = key
            run = entries[key].run if key in entries else None
            scores = {} if run is None else scores_of(run)
            command = entries[key].command if defined else ""
            own = places[members] if members in places else _likely_places(members, shown)
            lines += [(label, members, seed, *place, scores.get(place), run, command) for place in own]
    columns = ["label", "members", "seed", "domain", "corpus", "score", "run", "command"]
    return pd.DataFrame(lines, columns=columns).astype({"score": float})


def cells_of(lines: pd.DataFrame, rows: int, columns: int, unit: str = "seed") -> list[list[Cell]]:
    """The cells of a table of a given size.

    Args:
        lines: a long data frame with ``row``, ``column`` (places in the table), ``score`` (NaN: missing), ``run``,
            ``members``, ``seed`` and ``command``.
        rows: number of rows.
        columns: number of columns.
        unit: the column of ``lines`` within which scores are averaged before mean and deviation are taken.
    """
    place = ["row", "column"]
    means = lines.groupby([*place, unit], sort=False)["score"].mean().dropna()
    numbers = means.groupby(level=place).agg(["mean", "std"])
    parts: dict[tuple[int, int], tuple[list[float], list[tuple[Run, float]], list[Absent]]] = {
        (row, column): ([], [], []) for row in range(rows) for column in range(columns)
    }
    for (row, column, _), mean in means.items():
        parts[row, column][0].append(mean)
    for line in lines.itertuples():
        _, scores, absent = parts[line.row, line.column]
        if pd.isna(line.score):
            absent.append(Absent(line.members, line.seed, line.command))
        else:
            scores.append((line.run, line.score))
    mean, deviation = (numbers[name].dropna().to_dict() for name in ("mean", "std"))
    cells = {
        at: Cell(mean.get(at), deviation.get(at), tuple(own), tuple(scores), tuple(absent))
        for at, (own, scores, absent) in parts.items()
    }
    return [[cells[row, column] for column in range(columns)] for row in range(rows)]


def scores_of(run: Run) -> dict[Place, float]:
    """A result's scores and their two means by place."""
    result = run.result
    found: dict[Place, float | None]
    found = {(IN_DOMAIN, corpus): score for corpus, score in result.scores["in_domain"].items()}
    found |= {(OUT_OF_DOMAIN, corpus): score for corpus, score in result.scores["out_of_domain"].items()}
    found |= {(IN_DOMAIN, MEAN): result.mean_in_domain, (OUT_OF_DOMAIN, MEAN): result.mean_out_of_domain}
    return {place: score for place, score in found.items() if score is not None}


def domains_of(column: Column) -> list[str]:
    """In domain, and out of domain where anything was measured there."""
    outside = any(run.result.mean_out_of_domain is not None for run in column.runs)
    return list(BOTH) if outside else [IN_DOMAIN]


def by_key(row: Row, domain: str) -> dict[Key, float]:
    """A row's means in one domain by members and seed."""
    found = {key: scores_of(entry.run).get((domain, MEAN)) for key, entry in row.entries.items() if entry.run}
    return {key: score for key, score in found.items() if score is not None}


def row_cells(rows: Sequence[Row], domain: str) -> list[Cell]:
    """The mean of each row by itself in one domain: what is missing is not asked."""
    found = [
        (number, 0, seed, score, None)
        for number, row in enumerate(rows)
        for (_, seed), score in by_key(row, domain).items()
    ]
    lines = pd.DataFrame(found, columns=["row", "column", "seed", "score", "run"])
    return [cell for (cell,) in cells_of(lines, len(rows), 1)]


def _likely_places(members: Sequence[str], shown: Iterable[Place]) -> list[Place]:
    """What members of which nothing was measured would have scores of."""
    likely = [(domain, corpus) for domain, corpus in shown if corpus and (corpus in members) == (domain == IN_DOMAIN)]
    return [*likely, *((domain, MEAN) for domain in BOTH)]


def _rows(labels: Sequence[str], cells: Sequence[list[Cell]]) -> list[tuple[str, list[Cell]]]:
    return list(zip(labels, cells, strict=True))

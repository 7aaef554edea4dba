"""Tables of scores: rows methods, columns corpora and means."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from regmean_lab.report.rows import rows_of
from regmean_lab.results import Result

MINIMUM_WIDTH = 8
MEAN_IN = "mean in domain"
MEAN_OUT = "mean out of domain"


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation of the scores behind one cell (None for a single score), and their number."""

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """``87.31``, or ``87.31 ± 0.42`` for several scores."""
        return f"{self.mean:.2f}" if self.deviation is None else f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class ScoreTable:
    """Scores times 100, by method and column.

    Attributes:
        title: what the table shows.
        columns: headings of the cells.
        rows: for each method (and what else tells rows apart) its label and cells, None where nothing was measured.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def score_table(results: Sequence[Result]) -> ScoreTable:
    """Key scores of several results, averaged over seeds, and over sets of members if a row has several.

    Deviations are over seeds, within one set of members; over several sets there is none, since sets differ by far
    more than seeds do. Corpora out of domain have columns where they are the same for all results.
    """
    sets = list(dict.fromkeys(tuple(result.members) for result in results))
    seeds = sorted({result.seed for result in results})
    inside = list(dict.fromkeys(name for result in results for name in result.scores["in_domain"]))
    outside = list(dict.fromkeys(name for result in results for name in result.scores["out_of_domain"]))
    columns = [*inside, MEAN_IN]
    if outside:
        same = all(set(result.scores["out_of_domain"]) == set(outside) for result in results)
        columns += [*([f"{name} (out)" for name in outside] if same else []), MEAN_OUT]
    rows: list[tuple[str, list[Cell | None]]] = []
    for label, own in rows_of(results):
        one_set = len({tuple(result.members) for result in own}) == 1
        rows.append((label, [_cell([_value(result, column) for result in own], one_set) for column in columns]))
    what = "+".join(sets[0]) if len(sets) == 1 else f"{len(sets)} sets of members"
    suites = ", ".join(dict.fromkeys(result.suite for result in results))
    models = ", ".join(dict.fromkeys(result.model for result in results))
    title = f"{suites}, {models}: {what}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return ScoreTable(title, columns, rows)


def print_table(table: ScoreTable, console: Console) -> None:
    """Print a table in the terminal; the best score of each column is bold."""
    view = Table(title=table.title, title_justify="left")
    view.add_column("method", no_wrap=True)
    for column in table.columns:
        view.add_column(column, justify="right", min_width=min(len(column), MINIMUM_WIDTH))
    best = _best(table)
    for method, cells in table.rows:
        shown = []
        for number, cell in enumerate(cells):
            text = "" if cell is None else str(cell)
            shown.append(f"[bold]{text}[/bold]" if cell is not None and _text(cell) == best[number] else text)
        view.add_row(method, *shown)
    console.print(view)


def markdown_table(table: ScoreTable) -> str:
    """The same table as Markdown."""
    best = _best(table)
    lines = [
        f"{table.title}\n",
        "| method | " + " | ".join(table.columns) + " |",
        "|---|" + "---:|" * len(table.columns),
    ]
    for method, cells in table.rows:
        shown = []
        for number, cell in enumerate(cells):
            text = "" if cell is None else str(cell)
            shown.append(f"**{text}**" if cell is not None and _text(cell) == best[number] else text)
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _value(result: Result, column: str) -> float | None:
    if column == MEAN_IN:
        return result.mean_in_domain
    if column == MEAN_OUT:
        return result.mean_out_of_domain
    if column.endswith(" (out)"):
        return result.scores["out_of_domain"].get(column.removesuffix(" (out)"))
    return result.scores["in_domain"].get(column)


def _cell(values: Sequence[float | None], deviates: bool) -> Cell | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if deviates and len(known) > 1 else None
    return Cell(statistics.fmean(known), deviation, len(known))


def _best(table: ScoreTable) -> list[str | None]:
    """Of each column the best mean as it is shown, so that scores that look equal are equally bold."""
    best: list[str | None] = []
    for number in range(len(table.columns)):
        cells = [cell for _, row in table.rows if (cell := row[number]) is not None]
        best.append(_text(max(cells, key=lambda cell: cell.mean)) if len(cells) > 1 else None)
    return best


def _text(cell: Cell) -> str:
    return f"{cell.mean:.2f}"

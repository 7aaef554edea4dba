"""Tables of scores: rows methods, columns corpora and means."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from regmean_lab.results import Result

METHOD_ORDER = ("individual", "ensemble", "multitask", "simple", "fisher", "regmean")
"""Order of rows; other methods follow in the order in which they come."""

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
        rows: for each method its name and its cells, None where nothing was measured.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def score_table(results: Sequence[Result]) -> ScoreTable:
    """Key scores of several results of one suite, averaged over seeds, and over sets of members if there are several.

    Deviations are over seeds, within one set of members; over several sets there is none, since sets differ by far
    more than seeds do.
    """
    sets = list(dict.fromkeys(tuple(result.members) for result in results))
    seeds = sorted({result.seed for result in results})
    inside = list(dict.fromkeys(name for result in results for name in result.scores["in_domain"]))
    outside = list(dict.fromkeys(name for result in results for name in result.scores["out_of_domain"]))
    columns = [*inside, MEAN_IN]
    if outside:
        # With a single set of members the corpora out of domain are the same in every row.
        columns += [*([f"{name} (out)" for name in outside] if len(sets) == 1 else []), MEAN_OUT]
    rows = []
    for method in ordered_methods(result.method for result in results):
        own = [result for result in results if result.method == method]
        cells = [_cell([_value(result, column) for result in own], len(sets) == 1) for column in columns]
        rows.append((method, cells))
    first = results[0]
    what = "+".join(sets[0]) if len(sets) == 1 else f"mean over {len(sets)} sets of members"
    suites = ", ".join(dict.fromkeys(result.suite for result in results))
    models = ", ".join(dict.fromkeys(result.model for result in results))
    title = f"{suites}, {models}: {what}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return ScoreTable(title if first else "", columns, rows)


def ordered_methods(methods: Iterable[str]) -> list[str]:
    """Distinct methods: comparators first, then merges."""
    found = list(dict.fromkeys(methods))
    return sorted(found, key=lambda name: METHOD_ORDER.index(name) if name in METHOD_ORDER else len(METHOD_ORDER))


def print_table(table: ScoreTable, console: Console) -> None:
    """Print a table in the terminal; the best score of each column is bold."""
    view = Table(title=table.title, title_justify="left")
    view.add_column("method")
    for column in table.columns:
        view.add_column(column, justify="right")
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

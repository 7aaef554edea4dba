"""The table at the end of a sweep: rows methods, columns corpora and means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from regmean_lab.report.markdown import markdown_lines
from regmean_lab.report.member_names import member_names
from regmean_lab.report.rows import rows_of
from regmean_lab.report.tables import Cell, Heading, Table, cells_of
from regmean_lab.results import Result

MINIMUM_WIDTH = 8
MEAN_IN = "mean in domain"
MEAN_OUT = "mean out of domain"
GAP = "gap closed"
AGREEMENT = "agreement"
Texts = Sequence[tuple[str, Sequence[str]]]


def score_table(results: Sequence[Result], *, alike: bool = False) -> Table:
    """Key scores of several results, averaged over seeds, and over sets of members if a row has several.

    Deviations are over seeds, within one set of members; over several sets there is none, since sets differ by far
    more than seeds do. Out-of-domain corpora have columns where they are the same for all results.

    Args:
        results: the results.
        alike: whether methods are compared on the same members and seeds: a cell without what others have is then
            incomplete, and is not the best.
    """
    names = dict(zip(map(id, results), member_names(results), strict=True))
    sets = list(dict.fromkeys(names.values()))
    seeds = sorted({result.seed for result in results})
    inside = list(dict.fromkeys(name for result in results for name in result.scores["in_domain"]))
    outside = list(dict.fromkeys(name for result in results for name in result.scores["out_of_domain"]))
    same = all(set(result.scores["out_of_domain"]) == set(outside) for result in results)
    columns = [*inside, MEAN_IN]
    if outside:
        columns += [*([f"{name} (out)" for name in outside] if same else []), MEAN_OUT]
    columns += [name for name in (GAP, AGREEMENT) if any(_scores(result).get(name) is not None for result in results)]
    grouped = rows_of(results)
    measured = [
        (row, columns.index(name), job, score, tuple(sorted(names[id(result)])), result.seed)
        for row, (_, own) in enumerate(grouped)
        for job, result in enumerate(own)
        for name, score in _scores(result).items()
        if name in columns and score is not None
    ]
    measured += _missing(measured, [_compared(own[0]) for _, own in grouped]) if alike else []
    lines = pd.DataFrame(measured, columns=["row", "column", "job", "score", "members", "seed"])
    lines = lines.astype({"score": float}).assign(run=None, command="")
    rows = []
    for (label, own), cells in zip(grouped, cells_of(lines, len(grouped), len(columns), unit="job"), strict=True):
        one_set = len({names[id(result)] for result in own}) == 1
        rows.append((label, cells if one_set else [replace(cell, deviation=None) for cell in cells]))
    what = "+".join(sets[0]) if len(sets) == 1 else f"{len(sets)} sets of members"
    suites = ", ".join(dict.fromkeys(result.suite for result in results))
    models = ", ".join(dict.fromkeys(result.model for result in results))
    title = f"{suites}, {models}: {what}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    title += f"; {score_name(results)} × 100"
    return Table("table", title, "method", [Heading("", column) for column in columns], rows)


def _compared(result: Result) -> tuple[Any, ...]:
    """What rows have in common that are compared on the same members and seeds."""
    return result.suite, result.model, *(repr(result.configuration.get(key)) for key in ("order", "first"))


def _missing(measured: Sequence[tuple[Any, ...]], compared: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Lines without score for members and seeds that other rows have in a column, and a row of that column has not.

    Args:
        measured: the lines that there are.
        compared: of each row, what it has in common with those that it is compared with.
    """
    keys: dict[tuple[Any, ...], dict[tuple[Any, ...], None]] = {}
    cells: dict[tuple[int, int], set[tuple[Any, ...]]] = {}
    for row, column, _, _, *key in measured:
        keys.setdefault((column, compared[row]), {})[tuple(key)] = None
        cells.setdefault((row, column), set()).add(tuple(key))
    return [
        (row, column, -1, None, *key)
        for (row, column), own in cells.items()
        for key in keys[column, compared[row]]
        if key not in own
    ]


def print_table(table: Table, console: Console, more: Texts = ()) -> None:
    """Print a table in the terminal; the best score of each column is bold.

    Args:
        table: the table.
        console: where to.
        more: columns of text on its right: heading, and a text for each row.
    """
    view = TerminalTable(title=Text(table.title), title_justify="left")
    view.add_column(table.corner, no_wrap=True)
    for heading in table.headings:
        view.add_column(Text(heading.name), justify="right", min_width=min(len(heading.name), MINIMUM_WIDTH))
    for heading_of_texts, _ in more:
        view.add_column(Text(heading_of_texts), overflow="fold")
    best = table.best
    for row, (label, cells) in enumerate(table.rows):
        shown = [Text(_text(cell), "bold" if (row, place) in best else "") for place, cell in enumerate(cells)]
        view.add_row(Text(label), *shown, *(Text(texts[row]) for _, texts in more))
    console.print(view)


def markdown_table(table: Table, more: Texts = ()) -> str:
    """The same table as Markdown."""
    lines = markdown_lines(table, lambda cell, best: f"**{_text(cell)}**" if best else _text(cell), more)
    return f"{table.title}\n\n{lines}"


def _scores(result: Result) -> dict[str, float | None]:
    outside = {f"{name} (out)": score for name, score in result.scores["out_of_domain"].items()}
    means = {MEAN_IN: result.mean_in_domain, MEAN_OUT: result.mean_out_of_domain}
    compared = result.divergence or {}
    kept = {GAP: compared.get("gap_closed"), AGREEMENT: compared.get("agreement")}
    return {**outside, **result.scores["in_domain"], **means, **kept}


def score_name(results: Sequence[Result]) -> str:
    """``key score``, with the one metric whose values the scores are, unless corpora have different ones."""
    names: set[str] | None = None
    for result in results:
        for domain in result.scores.values():
            for corpus, score in domain.items():
                measured = result.metrics.get(corpus) or {}
                if any(isinstance(value, dict) for value in measured.values()):
                    continue  # of a member, by corpus
                equal = {name for name, value in measured.items() if value == score}
                names = equal if names is None else names & equal
    return f"key score ({names.pop()})" if names and len(names) == 1 else "key score"


def _text(cell: Cell) -> str:
    return "" if cell.mean is None else cell.text + cell.count_text(0)

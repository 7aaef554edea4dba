"""Tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from regmean_lab.report.significance import HEADINGS, Comparison, cells_of_test
from regmean_lab.report.tables import Cell, Table


def markdown_table(table: Table) -> str:
    """A table with its title and caption; the best scores are bold."""
    common = table.common_runs

    def shown(cell: Cell, best: bool) -> str:
        if cell.mean is None:
            return f"*{cell.text}*" if cell.absent else cell.text
        return (f"**{cell.text}**" if best else cell.text) + cell.count_text(common)

    return f"### {escape(table.title)}\n\n{escape(table.caption)}\n\n{markdown_lines(table, shown)}"


def markdown_lines(
    table: Table, shown: Callable[[Cell, bool], str], more: Sequence[tuple[str, Sequence[str]]] = ()
) -> str:
    """The lines of a table.

    Args:
        table: the table.
        shown: how a cell is written, given whether it is a best one.
        more: columns of text on its right: heading, and a text for each row.
    """
    best = table.best
    head = [table.corner, *(escape(heading.full) for heading in table.headings), *(escape(name) for name, _ in more)]
    lines = [_line(head), "|---|" + "---:|" * len(table.headings) + "---|" * len(more)]
    for row, (label, cells) in enumerate(table.rows):
        scores = [shown(cell, (row, place) in best) for place, cell in enumerate(cells)]
        lines.append(_line([escape(label), *scores, *(escape(texts[row]) for _, texts in more)]))
    return "\n".join(lines) + "\n"


def markdown_tests(comparisons: Sequence[Comparison], explanation: str) -> str:
    """Comparisons with a reference as a table."""
    lines = [f"{escape(explanation)}\n", _line(HEADINGS), "|---|---|---|" + "---:|" * (len(HEADINGS) - 3)]
    for comparison in comparisons:
        cells = [escape(text) for text in cells_of_test(comparison)]
        lines.append(_line([*cells, *[""] * (len(HEADINGS) - len(cells))]))
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(text.split()))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

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


def markdown_lines(table: Table, shown: Callable[[Cell, bool], str]) -> str:
    """The lines of a table; ``shown`` says how a cell is written, given whether it is a best one."""
    best = table.best
    head = [table.corner, *(escape(heading.full) for heading in table.headings)]
    lines = [_line(head), "|---|" + "---:|" * len(table.headings)]
    for row, (label, cells) in enumerate(table.rows):
        lines.append(_line([escape(label), *(shown(c, (row, place) in best) for place, c in enumerate(cells))]))
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

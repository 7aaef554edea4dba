"""Tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from regmean_lab.report.aggregate import ReportCell, ReportTable
from regmean_lab.report.significance import HEADINGS, Comparison, cells_of_test


def markdown_table(table: ReportTable) -> str:
    """A table with its title and caption; the best scores are bold."""
    best, common = table.best, table.common_runs
    lines = [
        f"### {escape(table.title)}\n",
        f"{escape(table.caption)}\n",
        _line([table.corner, *(escape(heading.full) for heading in table.headings)]),
        "|---|" + "---:|" * len(table.headings),
    ]
    for number, (label, cells) in enumerate(table.rows):
        shown = [_cell(cell, (number, place) in best, common) for place, cell in enumerate(cells)]
        lines.append(_line([escape(label), *shown]))
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


def _cell(cell: ReportCell, best: bool, common: int | None) -> str:
    if cell.mean is None:
        return f"*{cell.mean_text}*" if cell.absent else cell.mean_text
    text = cell.mean_text if cell.deviation is None else f"{cell.mean_text} ± {cell.deviation:.2f}"
    return (f"**{text}**" if best else text) + cell.count_text(common)

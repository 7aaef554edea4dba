"""Tables as LaTeX, for the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from regmean_lab.report.significance import HEADINGS, Comparison, cells_of_test
from regmean_lab.report.tables import Cell, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
}
NEEDED = "% Needs \\usepackage{booktabs}."


def latex_table(table: Table) -> str:
    """A table with caption and label; the best scores are bold."""
    best, common = table.best, table.common_runs
    body = []
    for number, (label, cells) in enumerate(table.rows):
        shown = [_cell(cell, (number, place) in best, common) for place, cell in enumerate(cells)]
        body.append([escape(label), *shown])
    caption = f"{table.title}. {table.caption}"
    head = [*_groups(table), _line([escape(table.corner), *(escape(heading.name) for heading in table.headings)])]
    return _environment(table.name, caption, "l" + "r" * len(table.headings), head, [_line(cells) for cells in body])


def latex_tests(name: str, comparisons: Sequence[Comparison], explanation: str) -> str:
    """Comparisons with a reference as a table."""
    numbers = len(HEADINGS) - 3
    body = []
    for comparison in comparisons:
        cells = [escape(text) for text in cells_of_test(comparison)]
        if comparison.test is None:
            cells[-1] = rf"\multicolumn{{{numbers}}}{{l}}{{{cells[-1]}}}"
        body.append(_line(cells))
    return _environment(name, explanation, "lll" + "r" * numbers, [_line([escape(text) for text in HEADINGS])], body)


def escape(text: str) -> str:
    """A text that LaTeX shows as it is."""
    return "".join(SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def _environment(name: str, caption: str, columns: str, head: Sequence[str], body: Sequence[str]) -> str:
    # Not escaped: a stem has letters, digits, dots, dashes and underscores only, and a label may have these.
    lines = [NEEDED, r"\begin{table}", r"\centering", rf"\caption{{{escape(caption)}}}", rf"\label{{tab:{name}}}"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", r"\end{table}"]) + "\n"


def _groups(table: Table) -> list[str]:
    """The line of headings that several columns share, and the rules below them."""
    if not table.groups:
        return []
    cells = ["", *(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" for group, width in table.groups)]
    ends = zip(table.group_starts, table.groups, strict=True)
    rules = [rf"\cmidrule(lr){{{start + 2}-{start + 1 + width}}}" for start, (_, width) in ends]
    return [_line(cells), " ".join(rules)]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell, best: bool, common: int | None) -> str:
    if cell.mean is None:
        return rf"\emph{{{cell.mean_text}}}" if cell.absent else escape(cell.mean_text)
    text = rf"\textbf{{{cell.mean_text}}}" if best else cell.mean_text
    if cell.deviation is not None:
        text += rf" {{\small$\pm$ {cell.deviation:.2f}}}"
    return text + cell.count_text(common)

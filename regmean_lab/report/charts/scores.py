"""Mean scores of each row, with the mean of every seed."""

from __future__ import annotations

from matplotlib.figure import Figure

from regmean_lab.report.charts.chart import BLUE, VERMILION, Chart, legend_below, shortened, text_width
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Section
from regmean_lab.report.tables import IN_DOMAIN, by_key, domains_of, row_cells

MOST_ROWS = 24
"""Of more rows no chart is drawn: they are values of a setting, of which there is a curve."""

OFFSET = 0.13
"""Distance of the two domains' marks from the middle of a row, in rows."""


def score_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each column with at least two rows."""
    return [
        _chart(section, column, names)
        for column in section.columns
        if 2 <= sum(bool(by_key(row, IN_DOMAIN)) for row in column.rows) <= MOST_ROWS
    ]


def _chart(section: Section, column: Column, names: FileNames) -> Chart:
    domains = domains_of(column)
    cells = {domain: list(enumerate(row_cells(column.rows, domain))) for domain in domains}
    told = []
    for domain, own in cells.items():
        values = [f"{column.rows[place].label} {cell.mean:.2f}" for place, cell in own if cell.mean is not None]
        told.append(f"{domain}: {', '.join(values)}")
    description = f"Dot chart of mean scores with one standard deviation over seeds. {'; '.join(told)}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, domain in enumerate(domains):
            colour, marker = (BLUE, "o") if domain == IN_DOMAIN else (VERMILION, "s")
            shift = 0.0 if len(domains) == 1 else OFFSET * (2 * number - 1)
            known = [(place + shift, cell) for place, cell in cells[domain] if cell.mean is not None]
            for y, cell in known:
                if cell.seeds > 1:
                    axes.plot(cell.means, [y] * cell.seeds, marker, color=colour, markersize=3, alpha=0.45)
            axes.errorbar(
                [cell.mean or 0.0 for _, cell in known],
                [y for y, _ in known],
                xerr=[cell.deviation or 0.0 for _, cell in known],
                fmt=marker,
                color=colour,
                markersize=7,
                elinewidth=1.4,
                label=domain,
            )
        axes.set_yticks(range(len(column.rows)), [shortened(row.label) for row in column.rows])
        axes.set_ylim(len(column.rows) - 0.5, -0.5)
        axes.set_xlabel("mean key score × 100")
        legend_below(figure, [axes])

    stem = names.stem(section.name, column.label, "scores")
    size = (5.2 + text_width(row.label for row in column.rows), 1.5 + 0.42 * len(column.rows))
    title = f"{section.name}: mean scores ({column.title})"
    return Chart(stem, title, description, size, draw, (column.title,))

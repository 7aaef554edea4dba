"""Scores out of domain against scores in domain."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from matplotlib.figure import Figure

from regmean_lab.report.charts.chart import Chart, legend_below, styles_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Row, Section
from regmean_lab.report.tables import IN_DOMAIN, OUT_OF_DOMAIN, by_key, domains_of

MOST_ROWS = 12
"""Of more rows no chart is drawn: their marks could not be told apart."""

Points = list[tuple[float, float]]


def domain_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each column with scores in and out of domain and at least two rows."""
    charts = []
    for column in section.columns:
        if OUT_OF_DOMAIN not in domains_of(column):
            continue
        points = {row.label: own for row in column.rows if (own := member_points(row))}
        if 2 <= len(points) <= MOST_ROWS:
            charts.append(_chart(section, column, points, names))
    return charts


def member_points(row: Row) -> Points:
    """For each set of members the means over seeds in and out of domain."""
    inside, outside = by_key(row, IN_DOMAIN), by_key(row, OUT_OF_DOMAIN)
    sets: dict[tuple[str, ...], Points] = {}
    for key in inside:
        if key in outside:
            sets.setdefault(key[0], []).append((inside[key], outside[key]))
    return [_mean(points) for points in sets.values()]


def _mean(points: Points) -> tuple[float, float]:
    return statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points)


def _chart(section: Section, column: Column, points: Mapping[str, Points], names: FileNames) -> Chart:
    told = [f"{label} {x:.2f} and {y:.2f}" for label, own in points.items() for x, y in [_mean(own)]]
    several = any(len(own) > 1 for own in points.values())
    what = "each set of members small, their mean large" if several else "each row"
    description = f"Scatter chart, {what}. Means in and out of domain: {'; '.join(told)}."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        styles = styles_of(list(points))
        for label, own in points.items():
            style = styles[label]
            x, y = _mean(own)
            if len(own) > 1:
                axes.plot(
                    [x for x, _ in own], [y for _, y in own], style.marker, color=style.colour, markersize=4, alpha=0.4
                )
            axes.plot([x], [y], style.marker, color=style.colour, markersize=10, linestyle="none", label=label)
        axes.set_xlabel("mean in-domain key score × 100")
        axes.set_ylabel("mean out-of-domain key score × 100")
        axes.margins(0.1)
        legend_below(figure, [axes])

    stem = names.stem(section.name, column.label, "domains")
    title = f"{section.name}: out of domain against in domain ({column.title})"
    return Chart(stem, title, description, (5.6, 4.8), draw, (column.title,))

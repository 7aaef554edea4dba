"""Scores out of domain against scores in domain, and which rows no other one beats in both."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regmean_lab.config.baselines import comparator_types
from regmean_lab.report.charts.chart import (
    INK,
    MOST_NAMED,
    OTHERS,
    Chart,
    legend_below,
    not_dominated,
    shortened,
    styles_of,
)
from regmean_lab.report.charts.scores import MOST_ROWS
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Row, Section
from regmean_lab.report.tables import IN_DOMAIN, OUT_OF_DOMAIN, by_key, domains_of

Point = tuple[float, float]


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


def member_points(row: Row) -> list[Point]:
    """For each set of members the means over seeds in and out of domain."""
    inside, outside = by_key(row, IN_DOMAIN), by_key(row, OUT_OF_DOMAIN)
    sets: dict[tuple[str, ...], list[Point]] = {}
    for key in inside:
        if key in outside:
            sets.setdefault(key[0], []).append((inside[key], outside[key]))
    return [_mean(points) for points in sets.values()]


def best_in_both(column: Column) -> list[str]:
    """Labels of the rows that no other row is at least as good as in both domains and better than in one.

    Compared are means over members and seeds, of merges of which no result is missing: comparators are no merges, and
    a mean over some sets of members says nothing of the others.
    """
    keys, points = set(column.keys), {}
    for row in column.rows:
        inside, outside = by_key(row, IN_DOMAIN), by_key(row, OUT_OF_DOMAIN)
        if row.method not in comparator_types() and inside.keys() & outside.keys() == keys:
            points[row.label] = _mean(member_points(row))
    return not_dominated(points)


def _mean(points: Sequence[Point]) -> Point:
    return statistics.fmean(x for x, _ in points), statistics.fmean(y for _, y in points)


def _chart(section: Section, column: Column, points: Mapping[str, list[Point]], names: FileNames) -> Chart:
    means = {label: _mean(own) for label, own in points.items()}
    front = sorted(best_in_both(column), key=lambda label: means[label])
    several = any(len(own) > 1 for own in points.values())
    named = set(points)
    if len(points) > MOST_NAMED:
        named = {row.label for row in column.rows if row.label in front or row.method in comparator_types()}
    told = [f"{label} {x:.2f} and {y:.2f}" for label, (x, y) in means.items()]
    what = "each set of members small, their mean large" if several else "each row"
    best = f" Of the merges no other is better in both than {', '.join(front)}." if front else ""
    description = f"Scatter chart, {what}. Means in and out of domain: {'; '.join(told)}.{best}"

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        styles = styles_of([label for label in points if label in named])
        _draw_front(axes, [means[label] for label in front])
        for label, own in points.items():
            x, y = means[label]
            if label not in named:
                axes.plot([x], [y], ".", color=OTHERS, markersize=8)
                continue
            style = styles[label]
            if len(own) > 1:
                axes.plot(*zip(*own, strict=True), style.marker, color=style.colour, markersize=4, alpha=0.4)
            axes.plot([x], [y], style.marker, color=style.colour, markersize=10, linestyle="none", label=label)
        if len(named) < len(points):
            axes.plot([], [], ".", color=OTHERS, markersize=8, label=f"{len(points) - len(named)} others")
        for label in front:
            axes.annotate(
                shortened(label), means[label], (7, 7), textcoords="offset points", fontsize=8.5, fontweight="bold"
            )
        axes.set_xlabel("mean in-domain key score × 100")
        axes.set_ylabel("mean out-of-domain key score × 100")
        axes.margins(0.12)
        legend_below(figure, [axes])

    stem = names.stem(section.name, column.label, "domains")
    title = f"{section.name}: out of domain against in domain ({column.title})"
    return Chart(stem, title, description, (5.6, 4.8), draw, (column.title,))


def _draw_front(axes: Axes, front: Sequence[Point]) -> None:
    """Steps around what the rows that are not dominated dominate, and a ring around each of these."""
    if not front:
        return
    x, y = zip(*front, strict=True)
    axes.plot(x, y, color=INK, linewidth=1.0, linestyle=(0, (2, 2)), drawstyle="steps-pre", label="not dominated")
    axes.plot(x, y, "o", markerfacecolor="none", markeredgecolor=INK, markersize=16, linestyle="none")

"""How much of the gap a merge closes, against how much statistics members must publish for it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

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
from regmean_lab.report.distance_table import GAP, by_key_of_measure
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Key, Row, Section
from regmean_lab.utils.quantities import byte_size

OWN_TEXT = "own"
"""``method.text`` of merges that read the members' text: ``OWN`` of ``merging.member_text``, which imports PyTorch."""

NOTHING_BELOW = 6.0
"""How many times smaller than the smallest size the place is at which the axis shows none."""


@dataclass(frozen=True)
class Point:
    """One row of the chart.

    Attributes:
        size: bytes of statistics that a member publishes for it, all kinds together; the mean over results.
        gap: gap closed, in percent; the mean over the same results.
    """

    size: float
    gap: float


def size_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each column of which at least two rows have a gap and sizes, and at least one reads statistics."""
    charts = []
    for column in section.columns:
        points = {row.label: point for row in column.rows if (point := point_of(row)) is not None}
        if 2 <= len(points) <= MOST_ROWS and any(point.size for point in points.values()):
            charts.append(_chart(section, column, points, names))
    return charts


def point_of(row: Row) -> Point | None:
    """Means over the results of a row that tell both their gap and the size of their statistics."""
    gaps, sizes = by_key_of_measure(row, GAP), sizes_of(row)
    both = [(size, gaps[key]) for key, size in sizes.items() if key in gaps]
    if not both:
        return None
    return Point(statistics.fmean(size for size, _ in both), statistics.fmean(gap for _, gap in both))


def sizes_of(row: Row) -> dict[Key, int]:
    """By members and seed, how many bytes of statistics the member with most of them has, all kinds together.

    Merges that read the members' own text have none: what they need is not published.
    """
    found = {}
    for key, entry in row.entries.items():
        if entry.run is None or entry.run.result.configuration.get("method", {}).get("text") == OWN_TEXT:
            continue
        if (sizes := entry.run.result.statistics_bytes) is not None:
            found[key] = sum(sizes.values())
    return found


def _chart(section: Section, column: Column, points: Mapping[str, Point], names: FileNames) -> Chart:
    front = not_dominated({label: (-point.size, point.gap) for label, point in points.items()})
    told = [f"{label} {point.gap:.1f} with {_size(point.size)}" for label, point in points.items()]
    description = (
        "Scatter chart of gap closed, in percent, against the bytes of statistics that a member publishes, on a "
        "logarithmic axis, of merges that do not read the members' own text. "
        f"{'; '.join(told)}. No other one closes more with as little: {', '.join(front)}."
    )
    smallest = min(point.size for point in points.values() if point.size)
    largest = max(point.size for point in points.values())
    nothing = smallest / NOTHING_BELOW
    named = front if len(points) > MOST_NAMED else list(points)

    def draw(figure: Figure) -> None:
        axes, styles = figure.subplots(), styles_of(named)
        axes.set_xscale("log")
        axes.axhline(0, color=INK, linewidth=0.9)
        for label, point in points.items():
            place = (point.size or nothing, point.gap)
            if label not in named:
                axes.plot(*place, ".", color=OTHERS, markersize=8)
                continue
            style = styles[label]
            axes.plot(*place, style.marker, color=style.colour, markersize=9, label=label)
            if label in front:
                axes.annotate(
                    shortened(label), place, (7, 5), textcoords="offset points", fontsize=8.5, fontweight="bold"
                )
        if len(named) < len(points):
            axes.plot([], [], ".", color=OTHERS, markersize=8, label=f"{len(points) - len(named)} others")
        ticks = [] if all(point.size for point in points.values()) else [nothing]
        if ticks:
            axes.axvline(smallest / NOTHING_BELOW**0.5, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_xticks([*ticks, *_ticks(smallest, largest)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "none" if value == nothing else _size(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim((ticks[0] if ticks else smallest) / 1.7, largest * 2.5)
        axes.margins(y=0.12)
        axes.set_xlabel("statistics that a member publishes")
        axes.set_ylabel("gap closed in percent")
        legend_below(figure, [axes])

    stem = names.stem(section.name, column.label, "gap by size")
    title = f"{section.name}: gap closed against the size of statistics ({column.title})"
    return Chart(stem, title, description, (5.6, 4.6), draw, (column.title,))


def _ticks(smallest: float, largest: float) -> list[float]:
    """At most four places between the smallest and the largest size: powers of ten, where there are two of them."""
    powers = [10.0**power for power in range(1, 16) if smallest <= 10.0**power <= largest]
    if len(powers) < 2:
        return sorted({smallest, largest})
    return powers[:: -(-len(powers) // 4)]


def _size(value: float) -> str:
    return byte_size(round(value)) if value else "none"

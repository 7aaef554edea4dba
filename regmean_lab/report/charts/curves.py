"""Curves of means with bands of one standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from regmean_lab.report.charts.chart import Style
from regmean_lab.report.grid import Row
from regmean_lab.report.tables import row_cell

BAND = 0.18
"""Opacity of bands: two may lie on each other."""


@dataclass(frozen=True)
class Point:
    """One point of a curve; ``deviation`` is 0 for a single seed."""

    x: float
    mean: float
    deviation: float


def points_of(rows: Sequence[tuple[float, Row]], domain: str) -> list[Point]:
    """Means and deviations over seeds of the rows that have scores, by their place on the x axis."""
    cells = [(x, row_cell(row, domain)) for x, row in sorted(rows, key=lambda pair: pair[0])]
    return [Point(x, cell.mean, cell.deviation or 0.0) for x, cell in cells if cell.mean is not None]


def draw_curve(axes: Axes, points: Sequence[Point], label: str, style: Style) -> None:
    """A line with markers, and its band where there is more than one seed."""
    x, y = [point.x for point in points], [point.mean for point in points]
    axes.plot(x, y, marker=style.marker, linestyle=style.line, color=style.colour, label=label)
    if any(point.deviation for point in points):
        low = [point.mean - point.deviation for point in points]
        high = [point.mean + point.deviation for point in points]
        axes.fill_between(x, low, high, color=style.colour, alpha=BAND, linewidth=0)


def draw_level(axes: Axes, row: Row, domain: str, style: Style) -> None:
    """A row that does not depend on the x axis: a line across, with its band."""
    cell = row_cell(row, domain)
    if cell.mean is None:
        return
    axes.axhline(cell.mean, linestyle=style.line, color=style.colour, linewidth=1.4, label=row.label)
    if cell.deviation:
        low, high = cell.mean - cell.deviation, cell.mean + cell.deviation
        axes.axhspan(low, high, color=style.colour, alpha=BAND / 2, linewidth=0)


def ends_text(label: str, points: Sequence[Point], unit: str) -> str:
    """A curve in words: where it begins and ends, and its highest point."""
    first, last, best = points[0], points[-1], max(points, key=lambda point: point.mean)
    text = f"{label}: {first.mean:.2f} at {first.x:g} {unit}, {last.mean:.2f} at {last.x:g}"
    return text if best in (first, last) else f"{text}, highest {best.mean:.2f} at {best.x:g}"

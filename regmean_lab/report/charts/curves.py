"""Curves of means with bands of one standard deviation: against the number of members, or against a setting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from regmean_lab.report.charts.chart import Chart, Style, legend_below, panels, styles_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Row, Section
from regmean_lab.report.tables import Cell, domains_of, row_cells

BAND = 0.18
"""Opacity of bands: two may lie on each other."""

MOST_TICKS = 8

Curves = dict[str, list[tuple[float, Row]]]
"""By the name of a curve, its rows and their places on the x axis."""

Points = list[tuple[float, Cell]]


@dataclass(frozen=True)
class Setting:
    """A setting that a chart has on its x axis.

    Attributes:
        key: its dotted key.
        axis: what the axis is called.
        short: what a title and a file name call it.
        logarithmic: whether its axis is.
    """

    key: str
    axis: str
    short: str
    logarithmic: bool = False


SETTINGS = (
    Setting("method.off_diagonal", "off-diagonal factor α", "off-diagonal factor"),
    Setting("method.coefficients", "coefficient of the first of two members", "coefficient"),
    Setting("statistics.gram.examples", "examples for each member's Gram matrices", "Gram examples", True),
    Setting("statistics.gram.batches", "batches for each member's Gram matrices", "Gram batches", True),
    Setting("statistics.fisher.examples", "examples for each member's Fisher information", "Fisher examples", True),
    Setting("statistics.fisher.batches", "batches for each member's Fisher information", "Fisher batches", True),
)


def incremental_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each group of columns that differ in nothing but the number of members."""
    families: dict[tuple[tuple[str, str], ...], list[Column]] = {}
    for column in section.columns:
        families.setdefault(tuple(sorted(column.settings.items())), []).append(column)
    charts = []
    for columns in families.values():
        curves: Curves = {}
        for label in section.row_labels:
            placed = [(float(column.count), row) for column in columns if (row := column.row(label)) is not None]
            if sum(_is_measured(row) for _, row in placed) > 1:
                curves[label] = placed
        if curves:
            settings = columns[0].settings
            stem = names.stem(section.name, settings["suite.name"], settings["model.name"], "members")
            common = _common([column.title for column in columns], ", ")
            title = f"{section.name}: scores against the number of members ({common})"
            axis = Setting("members", "number of members", "members")
            what = "with bands of one standard deviation over seeds"
            charts.append(_chart(stem, title, what, "members", columns, axis, curves))
    return charts


def setting_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each column and setting of which some method has at least two values."""
    charts = []
    for column in section.columns:
        for setting in SETTINGS:
            if not (curves := _setting_curves(column, setting)):
                continue
            on_curve = {row.label for rows in curves.values() for _, row in rows}
            methods = {row.method for rows in curves.values() for _, row in rows}
            # Other settings of the same methods are other curves; other methods are what a curve is compared with.
            others = [row for row in column.rows if row.label not in on_curve and row.method not in methods]
            levels = [row for row in others if sum(other.method == row.method for other in others) == 1]
            stem = names.stem(section.name, column.label, setting.short)
            title = f"{section.name}: scores against the {setting.short} ({column.title})"
            chart = _chart(stem, title, f"against the {setting.axis}", "", [column], setting, curves, levels)
            # Where most rows are other methods, as in a comparison of all, charts of single rows say more of them.
            charts.append(chart if 2 * len(on_curve) >= len(column.rows) else replace(chart, columns=()))
    return charts


def _setting_curves(column: Column, setting: Setting) -> Curves:
    """Rows that differ in nothing but the setting, by the part of their labels that they have in common."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, Row]]] = {}
    for row in column.rows:
        x = _number(row.settings.get(setting.key))
        if x is not None and _is_measured(row):
            others = tuple(sorted((key, value) for key, value in row.settings.items() if key != setting.key))
            groups.setdefault((row.method, others), []).append((x, row))
    chosen = [rows for rows in groups.values() if len({x for x, _ in rows}) > 1]
    return {_common([row.label for _, row in rows], " "): rows for rows in chosen}


def _chart(
    stem: str,
    title: str,
    what: str,
    unit: str,
    columns: Sequence[Column],
    axis: Setting,
    curves: Curves,
    levels: Sequence[Row] = (),
) -> Chart:
    """A panel for each domain, with curves, and lines across for ``levels``, which do not depend on the x axis."""
    domains = list(dict.fromkeys(domain for column in columns for domain in domains_of(column)))
    shown: dict[str, dict[str, Points]] = {
        domain: {label: own for label, rows in curves.items() if (own := _points(rows, domain))} for domain in domains
    }
    told = [
        f"{domain}: " + "; ".join(_ends_text(label, own, unit) for label, own in lines.items())
        for domain, lines in shown.items()
    ]
    description = f"Line chart of mean scores {what}. {'. '.join(told)}."
    if levels:
        description += f" Lines across: {', '.join(row.label for row in levels)}."
    values = sorted({x for rows in curves.values() for x, _ in rows})

    def draw(figure: Figure) -> None:
        styles = styles_of([*curves, *(row.label for row in levels)])
        axes = panels(figure, domains)
        for own, (domain, lines) in zip(axes, shown.items(), strict=True):
            for row, cell in zip(levels, row_cells(levels, domain), strict=True):
                _draw_level(own, row.label, cell, styles[row.label])
            for label, points in lines.items():
                _draw_curve(own, points, label, styles[label])
            own.set_xlabel(axis.axis)
            if axis.logarithmic:
                own.set_xscale("log")
                own.set_xticks(values if len(values) <= MOST_TICKS else values[:: -(-len(values) // MOST_TICKS)])
                own.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
                own.xaxis.set_minor_locator(NullLocator())
            elif axis.key == "members":
                own.set_xticks(values)
        legend_below(figure, axes)

    size = (1.2 + 3.7 * len(domains), 4.0)
    return Chart(stem, title, description, size, draw, tuple(column.title for column in columns))


def _points(rows: Sequence[tuple[float, Row]], domain: str) -> Points:
    """Means and deviations over seeds of the rows that have scores, by their place on the x axis."""
    ordered = sorted(rows, key=lambda pair: pair[0])
    cells = row_cells([row for _, row in ordered], domain)
    return [(x, cell) for (x, _), cell in zip(ordered, cells, strict=True) if cell.mean is not None]


def _band(cell: Cell) -> tuple[float, float, float]:
    """The mean, and the ends of its band."""
    mean, deviation = cell.mean or 0.0, cell.deviation or 0.0
    return mean, mean - deviation, mean + deviation


def _draw_curve(axes: Axes, points: Points, label: str, style: Style) -> None:
    """A line with markers, and its band where there is more than one seed."""
    x = [place for place, _ in points]
    means, low, high = zip(*(_band(cell) for _, cell in points), strict=True)
    axes.plot(x, means, marker=style.marker, linestyle=style.line, color=style.colour, label=label)
    if any(cell.deviation for _, cell in points):
        axes.fill_between(x, low, high, color=style.colour, alpha=BAND, linewidth=0)


def _draw_level(axes: Axes, label: str, cell: Cell, style: Style) -> None:
    """A line across, with its band."""
    if cell.mean is None:
        return
    mean, low, high = _band(cell)
    axes.axhline(mean, linestyle=style.line, color=style.colour, linewidth=1.4, label=label)
    if cell.deviation:
        axes.axhspan(low, high, color=style.colour, alpha=BAND / 2, linewidth=0)


def _ends_text(label: str, points: Points, unit: str) -> str:
    """A curve in words: where it begins and ends, and its highest point."""
    told = [f"{cell.mean_text} at {x:g}" for x, cell in points]
    best = max(range(len(points)), key=lambda place: points[place][1].mean or 0.0)
    text = f"{label}: {told[0]} {unit}, {told[-1]}"
    return text if best in (0, len(points) - 1) else f"{text}, highest {told[best]}"


def _is_measured(row: Row) -> bool:
    return any(entry.run for entry in row.entries.values())


def _number(value: str | None) -> float | None:
    """A setting as a number; of two coefficients the first."""
    if value is None:
        return None
    if pair := re.fullmatch(r"\[([^,\]]+),[^,\]]+\]", value):
        value = pair[1]
    try:
        return float(value)
    except ValueError:
        return None


def _common(texts: Sequence[str], separator: str) -> str:
    """The parts of the first text that all texts have."""
    parts = [text.split(separator) for text in texts]
    return separator.join(part for part in parts[0] if all(part in other for other in parts))

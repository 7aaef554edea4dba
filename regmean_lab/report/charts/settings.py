"""Scores against a setting: the off-diagonal factor, sample sizes, coefficients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from regmean_lab.report.charts.chart import Chart, legend_below, panels, styles_of
from regmean_lab.report.charts.curves import draw_curve, draw_level, ends_text, points_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Row, Section
from regmean_lab.report.tables import domains_of


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

Curves = dict[str, list[tuple[float, Row]]]


def setting_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each column and setting of which some method has at least two values."""
    charts = []
    for column in section.columns:
        for setting in SETTINGS:
            curves = _curves(column, setting)
            if curves:
                charts.append(_chart(section, column, setting, curves, names))
    return charts


def _curves(column: Column, setting: Setting) -> Curves:
    """Rows that differ in nothing but the setting, by the name of their curve."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[float, Row]]] = {}
    for row in column.rows:
        x = _number(row.settings.get(setting.key))
        if x is not None and any(entry.run for entry in row.entries.values()):
            others = tuple(sorted((key, value) for key, value in row.settings.items() if key != setting.key))
            groups.setdefault((row.method, others), []).append((x, row))
    chosen = {place: rows for place, rows in groups.items() if len({x for x, _ in rows}) > 1}
    return {_name(place, rows): rows for place, rows in chosen.items()}


def _name(place: tuple[str, tuple[tuple[str, str], ...]], rows: list[tuple[float, Row]]) -> str:
    """The part of the rows' labels that they have in common."""
    labels = [row.label.split(" ") for _, row in rows]
    return " ".join(part for part in labels[0] if all(part in other for other in labels))


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


def _chart(section: Section, column: Column, setting: Setting, curves: Curves, names: FileNames) -> Chart:
    domains = domains_of(column)
    on_curve = {row.label for rows in curves.values() for _, row in rows}
    methods = {row.method for rows in curves.values() for _, row in rows}
    # Other settings of the same methods are other curves; other methods are what a curve is compared with.
    levels = [row for row in column.rows if row.label not in on_curve and row.method not in methods]
    per_method: Mapping[str, int] = {row.method: sum(o.method == row.method for o in levels) for row in levels}
    levels = [row for row in levels if per_method[row.method] == 1]
    told = []
    for domain in domains:
        drawn = {label: points_of(rows, domain) for label, rows in curves.items()}
        told.append(f"{domain}: " + "; ".join(ends_text(label, own, "") for label, own in drawn.items() if own))
    description = f"Line chart of mean scores against the {setting.axis}. {'. '.join(told)}."
    if levels:
        description += f" Lines across: {', '.join(row.label for row in levels)}."

    def draw(figure: Figure) -> None:
        styles = styles_of([*curves, *(row.label for row in levels)])
        axes = panels(figure, domains)
        for own, domain in zip(axes, domains, strict=True):
            for row in levels:
                draw_level(own, row, domain, styles[row.label])
            for label, rows in curves.items():
                if points := points_of(rows, domain):
                    draw_curve(own, points, label, styles[label])
            own.set_xlabel(setting.axis)
            if setting.logarithmic:
                own.set_xscale("log")
                values = sorted({x for rows in curves.values() for x, _ in rows})
                own.set_xticks(values if len(values) <= 8 else values[:: -(-len(values) // 8)])
                own.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
                own.xaxis.set_minor_locator(NullLocator())
        legend_below(figure, axes)

    stem = names.stem(section.name, column.label, setting.short)
    title = f"{section.name}: scores against the {setting.short} ({column.title})"
    return Chart(stem, title, description, (1.2 + 3.7 * len(domains), 4.0), draw, (column.title,))

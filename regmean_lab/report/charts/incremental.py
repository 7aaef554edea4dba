"""Scores against the number of merged members."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from regmean_lab.report.charts.chart import Chart, legend_below, panels, styles_of
from regmean_lab.report.charts.curves import draw_curve, ends_text, points_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Row, Section
from regmean_lab.report.tables import domains_of

Curves = dict[str, list[tuple[float, Row]]]


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
            if sum(any(entry.run for entry in row.entries.values()) for _, row in placed) > 1:
                curves[label] = placed
        if curves:
            charts.append(_chart(section, columns, curves, names))
    return charts


def _chart(section: Section, columns: Sequence[Column], curves: Curves, names: FileNames) -> Chart:
    settings = columns[0].settings
    title = f"{section.name}: scores against the number of members ({_family(columns)})"
    domains = list(dict.fromkeys(domain for column in columns for domain in domains_of(column)))
    told = []
    for domain in domains:
        drawn = {label: points_of(rows, domain) for label, rows in curves.items()}
        told.append(f"{domain}: " + "; ".join(ends_text(name, own, "members") for name, own in drawn.items() if own))
    description = f"Line chart of mean scores with bands of one standard deviation over seeds. {'. '.join(told)}."

    def draw(figure: Figure) -> None:
        styles = styles_of(list(curves))
        axes = panels(figure, domains)
        for own, domain in zip(axes, domains, strict=True):
            for label, rows in curves.items():
                if points := points_of(rows, domain):
                    draw_curve(own, points, label, styles[label])
            own.set_xlabel("number of members")
            own.set_xticks(sorted({x for rows in curves.values() for x, _ in rows}))
        legend_below(figure, axes)

    stem = names.stem(section.name, settings["suite.name"], settings["model.name"], "members")
    return Chart(
        stem, title, description, (1.2 + 3.7 * len(domains), 4.0), draw, tuple(column.title for column in columns)
    )


def _family(columns: Sequence[Column]) -> str:
    """The columns' common title: without the number of members."""
    parts = columns[0].title.split(", ")
    return ", ".join(part for part in parts if all(part in column.title.split(", ") for column in columns))

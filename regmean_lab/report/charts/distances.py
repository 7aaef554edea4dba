"""How much of the distance between members and the mean of their weights each row closes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from matplotlib.figure import Figure

from regmean_lab.report.charts.chart import BLUE, INK, SKY, Chart, legend_below, shortened, text_width
from regmean_lab.report.charts.scores import MOST_ROWS, OFFSET
from regmean_lab.report.distance_table import GAP, TEMPERED, by_key_of_measure, measures_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Key, Section
from regmean_lab.report.significance import MINIMUM_PAIRS, mean_interval

MARKS = {GAP: (BLUE, "o"), TEMPERED: (SKY, "D")}


def distance_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each column of which at least two rows have a gap."""
    charts = []
    for column in section.columns:
        values = {
            measure: {row.label: own for row in column.rows if (own := by_key_of_measure(row, measure))}
            for measure in MARKS
            if measure in measures_of(column)
        }
        if 2 <= len(values.get(GAP, {})) <= MOST_ROWS:
            charts.append(_chart(section, column, values, names))
    return charts


def _chart(
    section: Section, column: Column, values: Mapping[str, Mapping[str, Mapping[Key, float]]], names: FileNames
) -> Chart:
    labels = list(values[GAP])
    told = []
    for measure, own in values.items():
        means = [f"{label} {statistics.fmean(found.values()):.1f}" for label, found in own.items()]
        told.append(f"{measure}: {', '.join(means)}")
    description = (
        "Dot chart of the share of the distance to the members that is closed, in percent: 0 is the mean of their "
        f"weights, 100 the members. Small dots are single results, bars 95 % bootstrap intervals of the mean of at "
        f"least {MINIMUM_PAIRS}. {'; '.join(told)}."
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.9)
        for number, (measure, own) in enumerate(values.items()):
            colour, marker = MARKS[measure]
            shift = 0.0 if len(values) == 1 else OFFSET * (2 * number - 1)
            for place, row in enumerate(labels):
                found = list(own.get(row, {}).values())
                if len(found) > 1:
                    axes.plot(found, [place + shift] * len(found), marker, color=colour, markersize=3, alpha=0.45)
                if found:
                    interval = mean_interval(found) if len(found) >= MINIMUM_PAIRS else None
                    if interval is not None:
                        axes.plot(interval, [place + shift] * 2, color=colour, linewidth=1.4)
                    axes.plot([statistics.fmean(found)], [place + shift], marker, color=colour, markersize=7)
            axes.plot([], [], marker, color=colour, markersize=7, label=measure)
        axes.set_yticks(range(len(labels)), [shortened(label) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("gap closed in percent (0: mean of the weights, 100: the members)")
        legend_below(figure, [axes])

    stem = names.stem(section.name, column.label, "gap closed")
    size = (5.2 + text_width(labels), 1.5 + 0.42 * len(labels))
    return Chart(stem, f"{section.name}: gap closed ({column.title})", description, size, draw, (column.title,))

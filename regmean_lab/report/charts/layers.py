"""Heat maps of a merge's layers: how well each was posed, and how far the merge moved, by member."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from regmean_lab.report.charts.chart import Chart, shortened, text_width
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Row, Section, natural_key
from regmean_lab.report.layers import Layers

MOST_MAPS = 4
"""Of a column with more rows that have diagnostics, the maps of the first are drawn."""

MOST_NAMES = 26
"""Of more layers, the axis names blocks."""

LONGEST_NAME = 30
LEAST_RATIO = 1.05
"""The widest colours of distances from members stand at least for this ratio: less is no difference to look at."""

TOGETHER, MERGE = "as solved", "merge"
LINE = 0.34
"""Height of one line of a map, in inches."""

Values = list[float]


@dataclass(frozen=True)
class Panel:
    """One heat map: lines of values, one a layer.

    Attributes:
        title: what its colours are.
        lines: by what is left of it, the values; NaN where there is none.
        norm: of its colours, for its values.
        colours: name of the colour map.
    """

    title: str
    lines: Mapping[str, Values]
    norm: Callable[[Values], LogNorm]
    colours: str

    @property
    def known(self) -> Values:
        """All values that there are."""
        return [value for line in self.lines.values() for value in line if not math.isnan(value)]


def layer_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each row of each column that has diagnostics, of at most four rows a column."""
    charts = []
    for column in section.columns:
        rows = [(row, found) for row in column.rows if (found := layers_of_row(row))]
        charts += [_chart(section, column, row, found, names) for row, found in rows[:MOST_MAPS]]
    return charts


def layers_of_row(row: Row) -> list[Layers]:
    """The diagnostics of a row's results, where they have any."""
    runs = [entry.run for entry in row.entries.values()]
    return [run.layers for run in runs if run is not None and run.layers is not None]


def panels_of(found: Sequence[Layers]) -> tuple[list[str], list[Panel]]:
    """The layers of some merges, and their heat maps: means over the merges (of conditions, geometric ones)."""
    layers = sorted(dict.fromkeys(name for one in found for name in one.names), key=natural_key)
    conditions = _by_member(found, layers, "conditions", _geometric)
    distances = _by_member(found, layers, "distances", _mean)
    moved = {MERGE: _single(found, layers, "moved", _mean)}
    conditions[TOGETHER] = _single(found, layers, "condition", _geometric)
    panels = [
        Panel("condition number, at least", conditions, _logarithmic, "cividis"),
        Panel("distance from the member: 1 is that of the mean", distances, _around, "PuOr_r"),
        Panel("distance from the mean: 1 is that of the members", moved, _logarithmic, "cividis"),
    ]
    return layers, [panel for panel in panels if panel.known]


def _chart(section: Section, column: Column, row: Row, found: Sequence[Layers], names: FileNames) -> Chart:
    layers, panels = panels_of(found)
    told = [_told(panel, layers) for panel in panels]
    results = "one result" if len(found) == 1 else f"the mean of {len(found)} results"
    description = f"Heat maps, a column for each of {len(layers)} layers, of {results}. {' '.join(told)}"
    left = text_width(label for panel in panels for label in panel.lines)
    width = 2.4 + left + min(9.0, max(3.0, 0.22 * len(layers)))
    below = text_width(_short(layers)) if len(layers) <= MOST_NAMES else 0.2
    heights = [LINE * len(panel.lines) for panel in panels]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for own, panel in zip(axes, panels, strict=True):
            _draw(figure, own, panel, len(layers))
        _name_layers(axes[-1], layers)

    stem = names.stem(section.name, column.label, row.label, "layers")
    title = f"{section.name}: layers of {row.label} ({column.title})"
    size = (width, 0.6 + sum(heights) + 0.45 * len(panels) + below)
    return Chart(stem, title, description, size, draw, (column.title,))


def _draw(figure: Figure, axes: Axes, panel: Panel, count: int) -> None:
    colours, norm = colormaps[panel.colours], panel.norm(panel.known)
    values = np.ma.masked_invalid(np.array(list(panel.lines.values()), dtype=float))
    # Its pixels are the cells, which whoever shows it enlarges as they are: no drawing of each.
    axes.imshow(values, cmap=colours, norm=norm, aspect="auto", interpolation="none", extent=(0, count, len(values), 0))
    axes.set_yticks([place + 0.5 for place in range(len(values))], [shortened(label) for label in panel.lines])
    axes.set_xticks([])
    axes.set_title(panel.title, loc="left")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, aspect=max(3.0, 7.0 * len(values) / 2), pad=0.015)
    bar.outline.set_visible(False)
    bar.ax.grid(False)
    # The ends, and what lies between them as colours do: 1 of distances from members.
    low, high = norm.vmin or 1.0, norm.vmax or 1.0
    bar.set_ticks([low, math.sqrt(low * high), high])
    bar.set_ticks([], minor=True)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}")


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """The layers' names below them; of many, the number of each block where it begins."""
    if len(layers) <= MOST_NAMES:
        places = [place + 0.5 for place in range(len(layers))]
        axes.set_xticks(places, _short(layers), rotation=60, ha="right", rotation_mode="anchor")
        return
    starts: dict[str, int] = {}
    for place, name in enumerate(layers):
        if (block := re.search(r"\.(\d+)\.", name)) is not None:
            starts.setdefault(block[1], place)
    axes.set_xticks(list(starts.values()), list(starts), ha="left")
    axes.set_xlabel("layers by name; numbers are blocks")


def _short(layers: Sequence[str]) -> list[str]:
    """Names without the parts that all of them begin with; of long ones the end, which tells layers apart."""
    parts = [name.split(".") for name in layers]
    common = 0
    while len(layers) > 1 and all(len(own) > common + 1 for own in parts) and len({own[common] for own in parts}) == 1:
        common += 1
    names = [".".join(own[common:]) for own in parts]
    return [name if len(name) <= LONGEST_NAME else f"….{name[2 - LONGEST_NAME :].partition('.')[2]}" for name in names]


def _told(panel: Panel, layers: Sequence[str]) -> str:
    """A panel in words: its highest and lowest value, and where they are."""
    at = [
        (value, label, layer) for label, line in panel.lines.items() for value, layer in zip(line, layers, strict=True)
    ]
    known = [place for place in at if not math.isnan(place[0])]
    ends = [f"{value:.3g} ({label}, {layer})" for value, label, layer in (min(known), max(known))]
    return f"{panel.title[:1].upper()}{panel.title[1:]}: from {ends[0]} to {ends[1]}."


def _single(found: Sequence[Layers], layers: Sequence[str], key: str, mean: Callable[[Values], float]) -> Values:
    return _means(((one.names, one.single[key]) for one in found), layers, mean)


def _by_member(
    found: Sequence[Layers], layers: Sequence[str], key: str, mean: Callable[[Values], float]
) -> dict[str, Values]:
    members = dict.fromkeys(member for one in found for member in one.by_member[key])
    return {
        member: _means(
            ((one.names, one.by_member[key][member]) for one in found if member in one.by_member[key]), layers, mean
        )
        for member in members
    }


def _means(
    measured: Iterable[tuple[Sequence[str], Sequence[float]]], layers: Sequence[str], mean: Callable[[Values], float]
) -> Values:
    values: dict[str, Values] = {layer: [] for layer in layers}
    for names, own in measured:
        for name, value in zip(names, own, strict=True):
            if not math.isnan(value):
                values[name].append(value)
    return [mean(known) if known else math.nan for known in values.values()]


def _mean(values: Values) -> float:
    return math.fsum(values) / len(values)


def _geometric(values: Values) -> float:
    return math.exp(math.fsum(math.log(max(value, 1.0)) for value in values) / len(values))


def _around(values: Values) -> LogNorm:
    """White is 1, and half as far as the mean is as far from it as twice as far."""
    widest = max(LEAST_RATIO, *(max(value, 1 / value) for value in values if value > 0), 0)
    return LogNorm(1 / widest, widest)


def _logarithmic(values: Values) -> LogNorm:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    return LogNorm(low, high if high > low else low * 10)

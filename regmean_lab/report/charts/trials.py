"""Dev scores of the trials of a search, in the order in which they were drawn, with the best so far."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from regmean_lab.report.charts.chart import Chart, legend_below, styles_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Section

FEWEST = 3
"""Of fewer trials no chart is drawn."""


@dataclass(frozen=True)
class Trials:
    """The trials of one search.

    Attributes:
        label: its row, and its members and seed.
        scores: one a trial.
    """

    label: str
    scores: Sequence[float]

    @property
    def best(self) -> list[float]:
        """After each trial, the best score so far."""
        return list(itertools.accumulate(self.scores, max))


def trial_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each column whose results were found by searches."""
    return [_chart(section, column, found, names) for column in section.columns if (found := _trials(column))]


def _trials(column: Column) -> list[Trials]:
    found = []
    for row in column.rows:
        for (members, seed), entry in row.entries.items():
            selection: Mapping[str, Any] | None = None if entry.run is None else entry.run.result.selection
            if selection and "sampler" in selection and len(selection["among"]) >= FEWEST:
                label = f"{row.label} {'+'.join(members)}, seed {seed}"
                found.append(Trials(label, [float(trial["score"]) for trial in selection["among"]]))
    return found


def _chart(section: Section, column: Column, found: Sequence[Trials], names: FileNames) -> Chart:
    told = [f"{one.label}: {len(one.scores)} trials, the best {max(one.scores):.2f}" for one in found]
    styles = styles_of([one.label for one in found])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for one in found:
            style, numbers = styles[one.label], range(1, len(one.scores) + 1)
            axes.plot(numbers, one.scores, style.marker, color=style.colour, markersize=5, alpha=0.6)
            axes.step(numbers, one.best, where="post", color=style.colour, linestyle=style.line, label=one.label)
        axes.set_xlabel("trial")
        axes.set_ylabel("mean key score on dev × 100")
        legend_below(figure, [axes])

    stem = names.stem(section.name, column.label, "trials")
    title = f"{section.name}: dev scores of the trials ({column.title})"
    description = f"Dots are trials of a search, lines the best so far. {'; '.join(told)}."
    return Chart(stem, title, description, (7.0, 4.2), draw, ())

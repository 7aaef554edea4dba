"""Learning curves of members: score on dev and loss against optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regmean_lab.report.charts.chart import Chart, Style, legend_below, styles_of
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Section
from regmean_lab.report.histories import TrainingHistory, histories_of

MOST_MEMBERS = 16
"""Of more members no chart is drawn: their curves could not be told apart."""

PANELS = {"key score on dev × 100": "scores", "loss on training data": "losses"}


def learning_charts(section: Section, names: FileNames) -> list[Chart]:
    """One chart for each group of columns whose members are trained alike; a member is drawn once."""
    families: dict[tuple[tuple[str, str], ...], list[Column]] = {}
    for column in section.columns:
        families.setdefault(tuple(sorted(column.settings.items())), []).append(column)
    charts, drawn = [], set[str]()
    for columns in families.values():
        found = histories_of(run for column in columns for run in column.runs)
        found = [history for history in found if history.address not in drawn]
        by_member: dict[str, list[TrainingHistory]] = {}
        for history in found:
            by_member.setdefault(history.member, []).append(history)
        if by_member and len(by_member) <= MOST_MEMBERS:
            drawn |= {history.address for history in found}
            charts.append(_chart(section, columns[0], by_member, names))
    return charts


def _chart(
    section: Section, column: Column, by_member: Mapping[str, Sequence[TrainingHistory]], names: FileNames
) -> Chart:
    shown = {title: part for title, part in PANELS.items() if any(_curves(by_member, part))}
    told = []
    for member, own in by_member.items():
        best = [max(history.scores.values()) for history in own if history.scores]
        if best:
            told.append(f"{member} {', '.join(f'{score:.2f}' for score in best)}")
    best_told = f" Best scores on dev, one for each training: {'; '.join(told)}." if told else ""
    description = f"Line chart of the training of {len(by_member)} members: {' and '.join(shown)}.{best_told}"

    def draw(figure: Figure) -> None:
        styles = styles_of(list(by_member))
        axes = list(figure.subplots(1, len(shown), squeeze=False)[0])
        for own, (title, part) in zip(axes, shown.items(), strict=True):
            for member, histories in by_member.items():
                for history in histories:
                    _draw(own, getattr(history, part), member, styles[member], mark=part == "scores")
            own.set_title(title)
            own.set_xlabel("optimizer step")
        legend_below(figure, axes)

    # Columns that differ in the number of members show the same trainings.
    suite_and_model = f"{column.settings['suite.name']}, {column.settings['model.name']}"
    stem = names.stem(section.name, suite_and_model, "training")
    title = f"{section.name}: training of the members ({suite_and_model})"
    return Chart(stem, title, description, (1.2 + 3.7 * len(shown), 4.2), draw, ())


def _curves(by_member: Mapping[str, Sequence[TrainingHistory]], part: str) -> list[Mapping[int, float]]:
    return [
        getattr(history, part) for histories in by_member.values() for history in histories if getattr(history, part)
    ]


def _draw(axes: Axes, values: Mapping[int, float], member: str, style: Style, *, mark: bool) -> None:
    """A curve; the best score, whose weights are kept where training keeps the best, has the member's marker."""
    steps = sorted(values)
    if not steps:
        return
    alone = style.marker if len(steps) == 1 and not mark else ""
    axes.plot(
        steps, [values[step] for step in steps], linestyle=style.line, color=style.colour, linewidth=1.4,
        marker=alone, label=None if mark else member,
    )  # fmt: skip
    if mark:
        best = max(steps, key=lambda step: (values[step], -step))
        axes.plot([best], [values[best]], style.marker, color=style.colour, markersize=7)
        axes.plot([], [], style.marker, linestyle=style.line, color=style.colour, label=member)

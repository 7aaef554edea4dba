"""Heat maps of pairs: how much better each method is than the reference."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regmean_lab.report.charts.chart import INK, Chart, shortened, text_width
from regmean_lab.report.files import FileNames
from regmean_lab.report.grid import Column, Row, Section
from regmean_lab.report.significance import reference_row
from regmean_lab.report.tables import by_key, domains_of

COLOURS = colormaps["PuOr"]
"""From orange over white to purple, which any colour vision can tell apart."""

PANELS_IN_A_LINE = 3
MOST_PANELS = 9
_DARK = 0.55
"""From which share of the largest gain on a cell's text is white."""

Gains = dict[tuple[str, str], float | None]


def gain_charts(section: Section, reference: str, names: FileNames) -> list[Chart]:
    """One chart for each column of pairs and domain, with a panel for each row but the reference."""
    charts = []
    for column in section.columns:
        base, _ = reference_row(column, reference)
        if base is None or column.count != 2 or len(column.member_sets) < 3:
            continue
        rows = [row for row in column.rows if row.label != base.label][:MOST_PANELS]
        for domain in domains_of(column):
            found = {row.label: pair_gains(row, base, column.member_sets, domain) for row in rows}
            shown = {label: gains for label, gains in found.items() if any(g is not None for g in gains.values())}
            if shown:
                charts.append(_chart(section, column, base, domain, shown, names))
    return charts


def pair_gains(row: Row, base: Row, pairs: Sequence[tuple[str, ...]], domain: str) -> Gains:
    """For each pair the mean over seeds of the row's score less the reference's; None without common seeds."""
    own, other = by_key(row, domain), by_key(base, domain)
    gains: Gains = {}
    for pair in pairs:
        differences = [own[key] - other[key] for key in own if key[0] == pair and key in other]
        gains[pair[0], pair[1]] = statistics.fmean(differences) if differences else None
    return gains


def _chart(
    section: Section, column: Column, base: Row, domain: str, shown: dict[str, Gains], names: FileNames
) -> Chart:
    members = list(dict.fromkeys(name for pair in column.member_sets for name in pair))
    known = [gain for gains in shown.values() for gain in gains.values() if gain is not None]
    limit = max(0.05, *(abs(gain) for gain in known))
    title = f"{section.name}: gain over {base.label} of each pair, {domain} ({column.title})"
    told = "; ".join(f"{label}: {_told(gains)}" for label, gains in shown.items())
    description = f"Heat map of pairs of members: score less that of {base.label}, mean over seeds. {told}."
    across = min(PANELS_IN_A_LINE, len(shown))
    down = -(-len(shown) // across)
    side = 0.6 + 0.62 * len(members) + text_width(members)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for own, (label, gains) in zip(axes, shown.items(), strict=False):
            _draw_panel(own, label, members, gains, limit)
        for own in axes[len(shown) :]:
            own.set_axis_off()

    stem = names.stem(section.name, column.label, "gain over", base.label, domain)
    return Chart(stem, title, description, (across * side, down * side), draw, (column.title,))


def _told(gains: Gains) -> str:
    known = {pair: gain for pair, gain in gains.items() if gain is not None}
    low, high = min(known, key=lambda pair: known[pair]), max(known, key=lambda pair: known[pair])
    positive = sum(gain > 0 for gain in known.values())
    text = f"better for {positive} of {len(known)} pairs, from {known[low]:+.2f} ({' + '.join(low)}) to "
    text += f"{known[high]:+.2f} ({' + '.join(high)})"
    return text + (f", {len(gains) - len(known)} missing" if len(known) < len(gains) else "")


def _draw_panel(axes: Axes, label: str, members: Sequence[str], gains: Gains, limit: float) -> None:
    """The lower triangle: rows are the later members of pairs, columns the earlier ones."""
    norm = Normalize(-limit, limit)
    for (one, other), gain in gains.items():
        x, y = sorted((members.index(one), members.index(other)))
        if gain is None:
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="///", edgecolor="#8a8a8a", lw=0.5))
            axes.text(
                x,
                y,
                "missing",
                ha="center",
                va="center",
                color="#000000",
                fontsize=7.5,
                bbox={"facecolor": "white", "lw": 0},
            )
            continue
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=COLOURS(norm(gain)), edgecolor="#8a8a8a", lw=0.5))
        # Black in a shade that a page leaves alone: the cell's own colour is behind it.
        colour = "white" if abs(gain) > _DARK * limit else "#000000"
        axes.text(x, y, f"{gain:+.1f}", ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xlim(-0.5, len(members) - 1.5)
    axes.set_ylim(len(members) - 0.5, 0.5)
    names = [shortened(name) for name in members]
    axes.set_xticks(range(len(members) - 1), names[:-1], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(1, len(members)), names[1:])
    axes.set_aspect("equal")
    axes.set_title(shortened(label), color=INK)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)

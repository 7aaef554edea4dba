"""Draws what members' owners publish and what it is worth, from ``docs/results/methods.csv``.

Run it by ``python docs/methods_picture.py``. The picture of README: gap closed against bytes published, of one suite's
pairs, on the members and seeds that all merges in it were measured on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from methods_record import BASELINE, COUNTS, read_record

from regmean_lab.report.significance import crossed_interval
from regmean_lab.utils.quantities import byte_size

PICTURE = Path(__file__).parent / "images" / "gap_by_size.png"
SUITE = "sentiment"
PACKED = 0.5
"""Matrices are published as their upper triangles: half of the bytes that a zoo has, nothing lost."""

PUBLISHED = {
    BASELINE: ("nothing: mean of weights", 1.0),
    f"{COUNTS} tokens.epsilon=3 tokens.delta=1e-06": ("counts of tokens, ε = 3", 1.0),
    COUNTS: ("counts of tokens", 1.0),
    "regmean off_diagonal=1 gram.form=diagonal": ("diagonals", 1.0),
    "regmean off_diagonal=1 gram.form=low_rank gram.rank=64": ("Gram matrices of rank 64", 1.0),
    "regmean off_diagonal=1": ("Gram matrices", PACKED),
    "regmean gram=weighted": ("loss-weighted Gram matrices", PACKED),
}
"""By the record's label, what the picture says of it, and the share of the recorded bytes that is published."""

TEXT = "regmean_sequential"
"""What is drawn as a line: it reads the members' own sentences."""

TO_THE_LEFT = ("counts of tokens", "Gram matrices of rank 64")
"""Points whose names stand to the left of them, where there is room."""

TEXT_AT = 8e5
"""Where on the axis the line's name begins."""

NOTHING_BELOW = 6.0
"""How many times smaller than the smallest size the place is at which the axis shows none."""


@dataclass(frozen=True)
class Point:
    """One merge in the picture.

    Attributes:
        name: what is published.
        size: bytes of it, of the member with most.
        gap: mean gap closed, in percent.
        low: lower end of its 95 % interval.
        high: its upper end.
        jobs: over how many sets of members and seeds.
    """

    name: str
    size: float
    gap: float
    low: float
    high: float
    jobs: int


def points(record: pd.DataFrame) -> list[Point]:
    """All merges of the picture, the one that reads text last, over the jobs that all of them have.

    Raises:
        ValueError: if a merge was not measured, or there is no job that all have.
    """
    pairs = record[(record["suite"] == SUITE) & (record["members"].str.count(r"\+") == 1)]
    rows = {name: pairs[pairs["method"] == name].set_index(["members", "seed"]) for name in (*PUBLISHED, TEXT)}
    if missing := [name for name, own in rows.items() if own.empty]:
        raise ValueError(f"not measured: {', '.join(missing)}")
    shared = rows[BASELINE].index
    for own in rows.values():
        shared = shared.intersection(own.index)
    if shared.empty:
        raise ValueError("no members and seed that all merges of the picture were measured on")
    found = []
    for name, own in rows.items():
        gaps = own.loc[shared, "gap_closed"]
        low, high = crossed_interval(list(gaps), *(list(shared.get_level_values(key)) for key in ("members", "seed")))
        title, share = PUBLISHED.get(name, ("600 of the members' own sentences, and Gram matrices", 1.0))
        size = share * float(own.loc[shared, "statistics_bytes"].max())
        found.append(Point(title, size, float(gaps.mean()), low, high, len(gaps)))
    return found


def picture(found: list[Point]) -> Figure:
    """Gap closed against bytes, on a logarithmic axis; the last point as a line."""
    *published, text = found
    least = min(point.size for point in published if point.size) / NOTHING_BELOW
    figure = Figure(figsize=(8.6, 4.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.axhline(text.gap, color="#777777", linestyle="--", linewidth=1)
    line = f"{text.name}: {text.gap:.0f} %"
    axes.annotate(line, (TEXT_AT, text.gap), (0, 4), textcoords="offset points", fontsize=8.5, color="#555555")
    for point in published:
        size = point.size or least
        bars = [[point.gap - point.low], [point.high - point.gap]]
        axes.errorbar(size, point.gap, yerr=bars, fmt="o", color="#0072B2", ecolor="#9cc4de", markersize=7, capsize=3)
        told = f"{point.name}\n{byte_size(point.size) if point.size else '0'}: {point.gap:.0f} %"
        left = point.name in TO_THE_LEFT
        place = (-8 if left else 8, -4)
        side = "right" if left else "left"
        axes.annotate(told, (size, point.gap), place, textcoords="offset points", fontsize=8.5, ha=side)
    axes.set_xlim(least / 2, max(point.size for point in published) * 30)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: "nothing" if size <= least else byte_size(size)))
    axes.set_xlabel("published beside a member")
    axes.set_ylabel("gap to the members closed, %")
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def main() -> None:
    """Write the picture, and print what it shows."""
    found = points(read_record())
    for point in found:
        interval = f"{point.low:.1f} to {point.high:.1f}"
        print(f"{point.gap:6.1f} % ({interval}, n = {point.jobs}) {point.size:12.0f} B  {point.name}")
    picture(found).savefig(PICTURE)


if __name__ == "__main__":
    main()

"""Figures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from regmean_lab.report.rows import rows_of
from regmean_lab.results import Result

# Okabe and Ito's colours can be told apart with any colour vision.
IN_DOMAIN, OUT_OF_DOMAIN = "#0072B2", "#E69F00"


def score_figure(results: Sequence[Result], path: Path) -> None:
    """Bars of the mean scores of each method, in and out of domain, with a dot for every job; written as PNG."""
    rows = rows_of(results)
    domains = [("in domain", IN_DOMAIN, lambda result: result.mean_in_domain)]
    if any(result.mean_out_of_domain is not None for result in results):
        domains.append(("out of domain", OUT_OF_DOMAIN, lambda result: result.mean_out_of_domain))
    figure = Figure(figsize=(1.6 + 1.1 * len(rows), 3.6), layout="constrained")
    axes = figure.subplots()
    width, every = 0.8 / len(domains), []
    for number, (label, colour, value) in enumerate(domains):
        for position, (_, own) in enumerate(rows):
            values = [score for result in own if (score := value(result)) is not None]
            if not values:
                continue
            every += values
            x = position + (number - (len(domains) - 1) / 2) * width
            height = sum(values) / len(values)
            axes.bar(x, height, width * 0.94, color=colour, label=label if position == 0 else None)
            axes.annotate(f"{height:.1f}", (x, height), ha="center", va="bottom", fontsize=8)
            if len(values) > 1:
                axes.plot([x] * len(values), values, "o", color="black", markersize=2.5)
    low, high = min(every), max(every)
    margin = max(high - low, 2.0) * 0.25
    axes.set_ylim(max(0.0, low - margin), min(100.0, high + margin) if high < 100 else 102)
    axes.set_xticks(range(len(rows)), [label.replace(" ", "\n") for label, _ in rows])
    axes.set_ylabel("mean key score × 100")
    axes.set_title(
        "+".join(results[0].members) if len({tuple(r.members) for r in results}) == 1 else "mean over members"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=150, format="png")
    temporary.replace(path)

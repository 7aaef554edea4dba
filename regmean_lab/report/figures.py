"""Figures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from regmean_lab.report.rows import rows_of
from regmean_lab.results import Result
from regmean_lab.utils.files import new_file

# Okabe and Ito's colours can be told apart with any colour vision; the markers differ as well.
IN_DOMAIN, OUT_OF_DOMAIN = ("#0072B2", "o"), ("#D55E00", "s")


def score_figure(results: Sequence[Result], path: Path) -> None:
    """Mean scores of each method, in and out of domain, with a small dot for every job; written as PNG."""
    rows = rows_of(results)
    domains = [("in domain", IN_DOMAIN, lambda result: result.mean_in_domain)]
    if any(result.mean_out_of_domain is not None for result in results):
        domains.append(("out of domain", OUT_OF_DOMAIN, lambda result: result.mean_out_of_domain))
    figure = Figure(figsize=(1.8 + 1.1 * len(rows), 3.6), layout="constrained")
    axes = figure.subplots()
    for label, (colour, marker), value in domains:
        positions, means = [], []
        for position, (_, own) in enumerate(rows):
            values = [score for result in own if (score := value(result)) is not None]
            if values:
                positions.append(position)
                means.append(sum(values) / len(values))
                if len(values) > 1:
                    axes.plot([position] * len(values), values, marker, color=colour, markersize=3, alpha=0.4)
        axes.plot(positions, means, marker, color=colour, markersize=9, label=label)
        for position, mean in zip(positions, means, strict=True):
            axes.annotate(f"{mean:.1f}", (position, mean), (9, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(-0.5, len(rows) - 0.3)
    axes.margins(y=0.12)
    axes.set_xticks(range(len(rows)), [label.replace(" ", "\n") for label, _ in rows])
    axes.set_ylabel("mean key score × 100")
    sets = {tuple(result.members) for result in results}
    title = "+".join(results[0].members) if len(sets) == 1 else f"{len(sets)} sets of members"
    axes.set_title(f"{results[0].suite}, {results[0].model}: {title}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")

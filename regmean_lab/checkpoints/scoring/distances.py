"""How far a merged model is from its checkpoints on the data that they are scored on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.scoring.models import ScoredModel
from regmean_lab.checkpoints.scoring.score import Scoring
from regmean_lab.metrics.divergence import Pair, agreement, divergence, gap_closed
from regmean_lab.results import Result, mean
from regmean_lab.suites.base import DataError


def distances(
    scoring: Scoring, merged: ScoredModel, members: Sequence[ScoredModel], simple: ScoredModel | None = None
) -> dict[str, Any]:
    """As results of jobs have it (:meth:`regmean_lab.evaluation.divergences.Divergences.of`), but on all corpora.

    Args:
        scoring: what has scored all of them.
        merged: the merged model.
        members: the checkpoints that it is merged from.
        simple: the mean of their weights, for the gap that the merge closes of it; it may be the merged model.

    Returns:
        ``members``: by checkpoint, means over corpora of ``kl`` to the merged model and of ``agreement``, and with the
        mean of weights ``kl_simple``; ``agreement``, the mean, and ``gap_closed``, None without the mean of weights.

    Raises:
        DataError: for checkpoints that cannot be compared: with other labels, with other tokens, or that write texts.
    """
    if merged.task.kind == "text":
        raise DataError("no divergence from the checkpoints: of what they write only the right ones' scores are kept")
    own = {member.name: _from(scoring, merged, member) for member in members}
    found = {
        "members": own,
        "agreement": mean([values["agreement"] for values in own.values() if values["agreement"] is not None]),
        "gap_closed": None,
    }
    if simple is not None:
        for member in members:
            own[member.name]["kl_simple"] = _from(scoring, simple, member)["kl"]
        found["gap_closed"] = gap_closed(*([values[name] for values in own.values()] for name in ("kl", "kl_simple")))
    return found


def with_distances(
    result: Result, folder: Path, lines: list[str], measure: Callable[[], dict[str, Any]] | None
) -> Result:
    """A merged model's result with how far it is from its checkpoints, which is told in lines, or why it is not.

    Args:
        result: the result.
        folder: where it lies; what is measured is written there too.
        lines: what is told; filled.
        measure: measures it (``distances``); None where the result has it already.
    """
    try:
        if measure is not None:
            result = replace(result, divergence=measure())
            result.write(folder)
        assert result.divergence is not None
        lines.append(distance_line(result.divergence))
    except DataError as error:  # of checkpoints that cannot be compared
        lines += [line for line in str(error).splitlines() if line not in lines]
    return result


def distance_line(found: dict[str, Any]) -> str:
    """In words."""
    each = []
    for name, values in found["members"].items():
        alike = "" if values["agreement"] is None else f" ({values['agreement']:.1f} % alike)"
        each.append(f"{name} {values['kl']:.4g}{alike}")
    gap = found["gap_closed"]
    told = f"divergence of the merge from {', '.join(each)}"
    return told if gap is None else f"{told}; {gap:.1f} % of the gap that the mean of weights leaves is closed"


def _from(scoring: Scoring, other: ScoredModel, member: ScoredModel) -> dict[str, Any]:
    """How far another model is from a checkpoint, means over corpora."""
    pairs = []
    for one in scoring.evaluations[other.name]:
        said, theirs = scoring.as_first(other, member, one.name), scoring.predicted[other.name][one.name]
        pairs.append(Pair(one.task, said.logits, theirs.logits, said.labels))
    return {
        "kl": mean([divergence(pair) for pair in pairs]),
        "agreement": mean([alike for pair in pairs if (alike := agreement(pair)) is not None]),
    }

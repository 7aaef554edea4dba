"""The choice among merges: what each is worth, and whether the best one is better than the mean by more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.merge import MergedParameter
from regmean_lab.merging.parameters import Layout, MergeMember
from regmean_lab.merging.task_vectors import oriented

HELD_OUT = "held-out text"
FITTED = (
    "the matrices that candidates are fitted to, which regmean with a factor of 1 fits best: no evidence of other text"
)

DRAWS = 2000
"""How often texts are drawn again."""

FEWEST = 20
"""Of these draws so many have to exceed a quantile."""


@dataclass(frozen=True)
class Candidate:
    """One merge that may be chosen.

    Attributes:
        method: the method with its settings and coefficients.
        mix: the share of the members' mean that is mixed in, with equal coefficients.
    """

    method: MergeMethod
    mix: float = 0.0

    def describe(self) -> dict[str, Any]:
        """What it is, for records: the method's name, its settings that are not the default, and the share."""
        defaults = type(self.method)()
        settings = {
            entry.name: value
            for entry in fields(self.method)
            if entry.init and (value := getattr(self.method, entry.name)) != getattr(defaults, entry.name)
        }
        if "gram" in self.method.statistics and hasattr(self.method, "off_diagonal"):
            settings["off_diagonal"] = self.method.off_diagonal
        return {"method": self.method.name, "settings": settings, "mix": self.mix}

    @property
    def words(self) -> str:
        """What it is, in a few words."""

        def short(value: Any) -> Any:
            if isinstance(value, list):
                return [short(one) for one in value]
            return round(value, 3) if isinstance(value, float) else value

        own = [f"{key}={short(value)}" for key, value in self.describe()["settings"].items()]
        return " ".join([self.method.name, *own, *([f"+ {self.mix:g} of the mean"] if self.mix else [])])


@dataclass(frozen=True)
class Verdict:
    """How good a candidate is.

    Attributes:
        candidate: the candidate.
        figure: the mean of what it is judged by; less is better.
        gain: by how much it is less than the figure of the mean of the members.
        standard_error: of the gain, over texts; None where nothing was drawn of which it could be one.
        gains_left_out: the gain without what each member in turn says; None of fewer than three members.
    """

    candidate: Candidate
    figure: float
    gain: float
    standard_error: float | None
    gains_left_out: list[float] | None = None

    @property
    def holds(self) -> bool:
        """Whether it is better than the mean whichever member is left out."""
        return self.gains_left_out is None or min(self.gains_left_out) > 0


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        verdicts: of all candidates, the mean of the members first.
        best: number of the candidate with the lowest figure.
        chosen: number of the candidate that is taken.
        threshold: standard errors by which a candidate has to be better than the mean, as many as there are; None
            where nothing has one.
        gain_left_out: mean over members of the gain on one of them of the candidate that the others choose; None of
            fewer than three.
        criterion: what candidates are judged by.
    """

    verdicts: list[Verdict]
    best: int
    chosen: int
    threshold: float | None
    gain_left_out: float | None
    criterion: str

    @property
    def candidate(self) -> Candidate:
        """The one that is taken."""
        return self.verdicts[self.chosen].candidate

    @property
    def evidence(self) -> str:
        """What the figures are of."""
        return HELD_OUT if self.criterion == "divergence" else FITTED

    def record(self) -> dict[str, Any]:
        """All of it, for a record."""
        rows = [
            {
                **one.candidate.describe(),
                "figure": one.figure,
                "gain": one.gain,
                "standard_error": one.standard_error,
                **({} if one.gains_left_out is None else {"gains_left_out": one.gains_left_out}),
            }
            for one in self.verdicts
        ]
        return {
            "by": self.criterion,
            "evidence": self.evidence,
            "threshold": self.threshold,
            "chosen": self.candidate.describe(),
            "candidates": rows,
            "gain_left_out": self.gain_left_out,
        }

    def reason(self) -> str:
        """Why this one, in a sentence."""
        taken, mean = self.verdicts[self.chosen], self.verdicts[0]
        what = "divergence from the members on held-out text" if self.criterion == "divergence" else "quadratic error"
        if self.chosen:
            told = f"chose {taken.candidate.words}: {self._told(taken, what, mean)}"
        elif self.best == 0:
            told = f"chose {mean.candidate.words}: {what} {mean.figure:.4g}, the least"
        else:
            best = self.verdicts[self.best]
            why = "which may be noise" if best.holds else "which does not hold without one of the members"
            told = f"kept the mean: the best other candidate is {best.candidate.words}, "
            told += f"{self._told(best, what, mean)}, {why}"
        return told if self.criterion == "divergence" else f"{told}; that is by {FITTED}"

    def _told(self, one: Verdict, what: str, mean: Verdict) -> str:
        told = f"{what} {one.figure:.4g}, the mean {mean.figure:.4g}, a gain of {one.gain:.4g}"
        if one.standard_error is None or self.threshold is None:
            return told
        asked = f"of {len(self.verdicts) - 1} candidates, {self.threshold:.3g} standard errors are asked for"
        return f"{told} ± {one.standard_error:.2g} ({asked})"

    def lines(self) -> list[str]:
        """A table of all candidates in Markdown, the best first."""
        order = sorted(range(len(self.verdicts)), key=lambda number: self.verdicts[number].figure)
        rows = ["| candidate | figure | gain | standard error | |", "| --- | ---: | ---: | ---: | --- |"]
        for number in order:
            one = self.verdicts[number]
            mark = "chosen" if number == self.chosen else ""
            error = "–" if one.standard_error is None else f"{one.standard_error:.2g}"
            rows.append(f"| {one.candidate.words} | {one.figure:.4g} | {one.gain:.4g} | {error} | {mark} |")
        return rows


def choose(
    candidates: Sequence[Candidate], values: Sequence[Sequence[Tensor]], margin: float, criterion: str
) -> Choice:
    """Choose by what each candidate is worth on each unit (a text, a layer) of each member; less is better.

    By ``divergence`` the best of the candidates is taken that are better than the first by more than noise, by a test
    of all of them together (see :func:`threshold_of`). The layers of a model are no sample of anything, so that
    ``quadratic`` has no such test: the best one is taken. Of three members or more, a candidate is taken only if it is
    better than the first whichever of them is left out.

    Args:
        candidates: the candidates, the mean of the members first.
        values: by candidate and member, one value a unit, shape [units]; the same units for all candidates.
        margin: standard errors by which a candidate must be better than the first, if it is the only one.
        criterion: what values are of.
    """
    members = [torch.stack([each[number].double() for each in values]) for number in range(len(values[0]))]
    means = torch.stack([own.mean(1) for own in members], 1)
    differences = [own[0] - own for own in members]
    gains = torch.stack([own.mean(1) for own in differences], 1)
    left_out = None
    if len(members) > 2:
        left_out = (gains.sum(1, keepdim=True) - gains) / (len(members) - 1)
    sampled = criterion == "divergence"
    verdicts = []
    for number, candidate in enumerate(candidates):
        error = None
        if sampled:
            error = math.sqrt(sum(_variance_of_mean(own[number]) for own in differences)) / len(members)
        without = None if left_out is None else left_out[number].tolist()
        verdicts.append(Verdict(candidate, float(means[number].mean()), float(gains[number].mean()), error, without))
    errors = [one.standard_error or 0.0 for one in verdicts]
    threshold = threshold_of([own[1:] for own in differences], errors[1:], margin) if sampled else None
    able = [
        number
        for number, one in enumerate(verdicts)
        if number and one.holds and one.gain > 0 and one.gain > _product(threshold or 0.0, errors[number])
    ]
    best, chosen = (
        min(numbers, key=lambda number: verdicts[number].figure) for numbers in (range(len(verdicts)), able or [0])
    )
    return Choice(verdicts, best, chosen, threshold, _gain_left_out(means), criterion)


def threshold_of(differences: Sequence[Tensor], errors: Sequence[float], margin: float) -> float:
    """Standard errors by which the best of several candidates has to be better than the mean, as many as they are.

    It is as likely that the largest of them exceeds it by chance, if none is better than the mean, as that a single
    one exceeds ``margin``: the quantile of the studentised maximum over texts that are drawn again with replacement,
    the same ones for all candidates, so that candidates that are nearly the same count as one. Too far out for
    :data:`DRAWS` of them it is that of independent normal ones, which is larger.

    Args:
        differences: of each member, by how much each candidate is better on each text, shape [candidates, texts].
        errors: standard error of each candidate's mean gain.
        margin: that of a single candidate; with 0, nothing is asked for.
    """
    usable = [number for number, error in enumerate(errors) if 0 < error < math.inf]
    if margin == 0 or not usable:
        return margin
    from scipy.stats import norm  # takes half a second to import, and most merges choose among no candidates

    chance = float(norm.sf(margin))
    if chance * DRAWS < FEWEST:
        return max(margin, float(norm.isf(-math.expm1(math.log1p(-chance) / len(usable)))))
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(2, DRAWS, len(usable), dtype=torch.float64)
    for own in differences:
        centred = own[usable] - own[usable].mean(1, keepdim=True)
        texts = centred.shape[1]
        numbers = torch.randint(texts, (DRAWS, texts), generator=generator)
        times = torch.zeros(DRAWS, texts, dtype=torch.float64).scatter_add_(
            1, numbers, torch.ones_like(numbers).double()
        )
        means = times @ centred.T / texts
        sums += torch.stack([means, (times @ centred.T.square() / texts - means.square()) / max(texts - 1, 1)])
    # What was drawn may be one text over and over, without a spread of its own.
    largest = (sums[0] / sums[1].clamp(min=0).sqrt()).nan_to_num(0.0, 0.0, 0.0).amax(1)
    return max(margin, float(largest.quantile(1 - chance)))


def _product(threshold: float, error: float) -> float:
    """Of infinity and 0, 0: what is equal on every text has no noise."""
    return threshold * error if error else 0.0


def quadratic_errors(
    merged: Iterable[MergedParameter], members: Sequence[MergeMember], layout: Layout
) -> dict[str, list[float]]:
    """By linear layer, of each member tr((W − Wᵢ)ᵀ Gᵢ (W − Wᵢ)), for weights as [in, out].

    Args:
        merged: the merged parameters, one after the other.
        members: the members, with Gram matrices.
        layout: of the model.
    """
    found = {}
    for parameter in merged:
        layer = layout.linear.get(parameter.name)
        if layer is None:
            continue
        errors = []
        for member in members:
            assert member.gram is not None
            gram = member.gram.matrix(layer.name).double()
            apart = parameter.value.double().cpu() - member.weights[parameter.name].double().cpu()
            difference = oriented(apart, layer).T
            errors.append(float((difference * (gram.cpu() @ difference)).sum()))
        found[layer.name] = errors
    return found


def relative_errors(errors: Mapping[str, Sequence[float]], of_mean: Mapping[str, Sequence[float]]) -> list[Tensor]:
    """Of each member, its layers' errors divided by the mean's: shape [layers], without layers that are all alike."""
    layers = [layer for layer, own in of_mean.items() if all(value > 0 for value in own)]
    members = len(next(iter(of_mean.values()), ()))
    if not layers:
        return [torch.ones(1, dtype=torch.float64) for _ in range(members)]
    return [
        torch.tensor([errors[layer][number] / of_mean[layer][number] for layer in layers], dtype=torch.float64)
        for number in range(members)
    ]


def _variance_of_mean(values: Tensor) -> float:
    """Of independent values; unknown, and so infinite, of a single one that is not 0."""
    if len(values) > 1:
        return float(values.var()) / len(values)
    return 0.0 if float(values.abs().sum()) == 0 else math.inf


def _gain_left_out(means: Tensor) -> float | None:
    """Mean over members of what the choice of all others gains on them, from [candidates, members]."""
    members = means.shape[1]
    if members < 3:
        return None
    gains = []
    for left in range(members):
        others = [number for number in range(members) if number != left]
        chosen = int(means[:, others].mean(1).argmin())
        gains.append(float(means[0, left] - means[chosen, left]))
    return sum(gains) / members

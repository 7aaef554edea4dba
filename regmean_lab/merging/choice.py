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
        if hasattr(self.method, "off_diagonal"):
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
        standard_error: of the gain.
    """

    candidate: Candidate
    figure: float
    gain: float
    standard_error: float


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        verdicts: of all candidates, the mean of the members first.
        best: number of the candidate with the lowest figure.
        chosen: number of the candidate that is taken.
        gain_left_out: mean over members of the gain on one of them of the candidate that the others choose; None of
            fewer than three.
        criterion: what candidates are judged by.
    """

    verdicts: list[Verdict]
    best: int
    chosen: int
    gain_left_out: float | None
    criterion: str

    @property
    def candidate(self) -> Candidate:
        """The one that is taken."""
        return self.verdicts[self.chosen].candidate

    def record(self) -> dict[str, Any]:
        """All of it, for a record."""
        rows = [
            {**one.candidate.describe(), "figure": one.figure, "gain": one.gain, "standard_error": one.standard_error}
            for one in self.verdicts
        ]
        return {
            "by": self.criterion,
            "chosen": self.candidate.describe(),
            "candidates": rows,
            "gain_left_out": self.gain_left_out,
        }

    def reason(self) -> str:
        """Why this one, in a sentence."""
        best = self.verdicts[self.best]
        what = "divergence from the members on held-out text" if self.criterion == "divergence" else "quadratic error"
        told = f"{what} {best.figure:.4g}, the mean {self.verdicts[0].figure:.4g}"
        told += f", a gain of {best.gain:.4g} ± {best.standard_error:.2g}"
        if self.chosen == self.best:
            return f"chose {self.candidate.words}: {told if self.best else f'{what} {best.figure:.4g}, the least'}"
        return f"kept the mean: the best other candidate is {best.candidate.words}, {told}, which may be noise"

    def lines(self) -> list[str]:
        """A table of all candidates in Markdown, the best first."""
        order = sorted(range(len(self.verdicts)), key=lambda number: self.verdicts[number].figure)
        rows = ["| candidate | figure | gain | standard error | |", "| --- | ---: | ---: | ---: | --- |"]
        for number in order:
            one = self.verdicts[number]
            mark = "chosen" if number == self.chosen else ""
            rows.append(
                f"| {one.candidate.words} | {one.figure:.4g} | {one.gain:.4g} | {one.standard_error:.2g} | {mark} |"
            )
        return rows


def choose(
    candidates: Sequence[Candidate], values: Sequence[Sequence[Tensor]], margin: float, criterion: str
) -> Choice:
    """Choose by what each candidate is worth on each unit (a text, a layer) of each member; less is better.

    Args:
        candidates: the candidates, the mean of the members first.
        values: by candidate and member, one value a unit, shape [units]; the same units for all candidates.
        margin: standard errors by which a candidate must be better than the first.
        criterion: what values are of.
    """
    wide = [[own.double() for own in each] for each in values]
    members = len(wide[0])
    verdicts = []
    for candidate, each in zip(candidates, wide, strict=True):
        figure = sum(float(own.mean()) for own in each) / members
        differences = [first - own for first, own in zip(wide[0], each, strict=True)]
        gain = sum(float(own.mean()) for own in differences) / members
        variance = sum(_variance_of_mean(own) for own in differences)
        verdicts.append(Verdict(candidate, figure, gain, math.sqrt(variance) / members))
    best = min(range(len(verdicts)), key=lambda number: verdicts[number].figure)
    better = best != 0 and verdicts[best].gain > margin * verdicts[best].standard_error
    means = torch.tensor([[float(own.mean()) for own in each] for each in wide])
    return Choice(verdicts, best, best if better else 0, _gain_left_out(means), criterion)


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

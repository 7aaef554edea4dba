"""The choice of a merge and its settings by what members' owners published, without data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import (
    LayerDiagnostics,
    Layout,
    MergeMember,
    MergeMethod,
    Parameter,
    method_types,
    register_method,
)
from regmean_lab.merging.member_text import ReadsText
from regmean_lab.merging.merge import MergedParameter
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.starting_merge import SHARED, starting_merge
from regmean_lab.merging.task_vectors import oriented
from regmean_lab.utils.checks import at_least_one, fraction, one_of, positive
from regmean_lab.utils.names import did_you_mean

SIMPLE = "simple"
CANDIDATES = ("regmean",)
OFF_DIAGONALS = (0.9, 1.0)
MIXES = (0.0, 0.5)
CRITERIA = ("divergence", "quadratic")


@register_method("auto")
@dataclass
class Auto(ReadsText, MergeMethod):
    """The best of several merges with several settings, as far as what members' owners published tells; or the mean.

    Candidates are the mean of the members (``simple``) and the methods ``candidates``, those with an ``off_diagonal``
    with each of ``off_diagonals``, each mixed with the mean at each of ``mixes``; and all of that with equal
    coefficients and with each member in turn counting ``favour`` times as much as each other one.

    By ``divergence`` a candidate is judged by KL(member i ‖ candidate) on held-out text of each member i, a mean over
    texts and members; by ``quadratic``, without any text, by tr((W − Wᵢ)ᵀ Gᵢ (W − Wᵢ)) of each linear layer, relative
    to that of the mean of the members, a mean over layers and members. The best one is taken if it is better than the
    mean of the members by more than ``margin`` standard errors of the difference, and otherwise that mean.

    Attributes:
        candidates: names of methods; None is ``regmean``, ``[simple]`` none but the mean.
        off_diagonals: values of ``off_diagonal``; None is 0.9 and 1.
        mixes: shares of the mean that are mixed in; None is 0 and 0.5.
        favour: how many times as much a favoured member counts; 1 favours none.
        criterion: ``divergence`` or ``quadratic``; None is the divergence, but of checkpoints that were published with
            Gram matrices and without counts of tokens.
        text: whose text is read: ``pseudo`` (sentences drawn from the counts of tokens that each member's owner
            published), ``own`` (training examples of each member; their labels are not read), or a file of texts, which
            every member reads.
        text_seed: which texts are drawn or read.
        examples: most texts of each member, where they are not drawn; None is all.
        held_out: texts of each member on which candidates are judged.
        batch_size: texts a batch; changes no choice.
        margin: standard errors by which a candidate must be better than the mean of the members.
        seed: which texts are read.
    """

    candidates: list[str] | None = None
    off_diagonals: list[float] | None = None
    mixes: list[float] | None = None
    favour: float = 2.0
    criterion: str | None = None
    text: str = "pseudo"
    examples: int | None = 1000
    held_out: int = 200
    batch_size: int = 32
    margin: float = 1.0

    @property
    def beginning(self) -> MergeMethod:
        """What it is without anything to choose by: the mean."""
        return Simple(**{name: getattr(self, name) for name in SHARED})

    @property
    def by_text(self) -> bool:
        """Whether candidates are judged by the divergence."""
        return self.criterion != "quadratic"

    @property
    def methods(self) -> list[MergeMethod]:
        """The candidates with equal coefficients, the mean first, before anything is mixed."""
        found = [self.beginning]
        for name in self.candidates or CANDIDATES:
            if name == SIMPLE or name not in method_types():
                continue  # which is there already, or what problems() tells
            adjustable = any(entry.name == "off_diagonal" for entry in fields(method_types()[name]))
            factors = self.off_diagonals or OFF_DIAGONALS
            settings = [{"off_diagonal": factor} for factor in factors] if adjustable else [{}]
            found += [starting_merge(self, name, own) for own in settings]
        return found

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of all candidates, and what candidates are judged by."""
        kinds = [kind for method in self.methods for kind in method.statistics]
        return tuple(dict.fromkeys([*kinds, *(self.text_statistics if self.by_text else ["gram"])]))

    @property
    def needs_base(self) -> bool:
        """Whether a candidate does."""
        return any(method.needs_base for method in self.methods)

    @property
    def needs_text(self) -> bool:
        """Whether candidates are judged by text, or made with it."""
        return self.by_text or any(method.needs_text for method in self.methods)

    @property
    def notes(self) -> list[str]:
        """Those of all candidates."""
        return list(dict.fromkeys(note for method in self.methods for note in method.notes))

    def gram_layers(self, names: Any, layout: Layout) -> list[str]:
        """Those of all candidates."""
        return list(dict.fromkeys(layer for method in self.methods for layer in method.gram_layers(names, layout)))

    def averaged_maps(self, names: Any, layout: Layout) -> list[str]:
        """Those of all candidates."""
        return list(dict.fromkeys(name for method in self.methods for name in method.averaged_maps(names, layout)))

    def count_problems(self, members: int) -> list[str]:
        """Those of all candidates."""
        return list(dict.fromkeys(problem for method in self.methods for problem in method.count_problems(members)))

    @override
    def problems(self) -> list[str]:
        found = self.beginning.problems()
        if self.coefficients is not None:
            found.append("coefficients: they are chosen; expected null")
        known = [name for name in method_types() if name not in (self.name, "distill")]
        for name in self.candidates or ():
            if name not in known:
                found.append(f"candidates: there is no merge method {name!r} to try; {did_you_mean(name, known)}")
        for name in ("off_diagonals", "mixes"):
            for value in getattr(self, name) or ():
                fraction(name, value, found)
        positive("favour", self.favour, found)
        if self.criterion is not None:
            one_of("criterion", self.criterion, CRITERIA, found)
        for name in ("held_out", "batch_size"):
            at_least_one(name, getattr(self, name), found)
        found += self.text_problems()
        if not 0 <= self.margin < math.inf:
            found.append(f"margin: expected at least 0, got {self.margin}")
        return found

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """One parameter of the mean."""
        return self.beginning.merge(parameter)


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
        own = [
            f"{key}={value if not isinstance(value, list) else [round(one, 3) for one in value]}"
            for key, value in self.describe()["settings"].items()
        ]
        return " ".join([self.method.name, *own, *([f"+ {self.mix:g} of the mean"] if self.mix else [])])


def candidates_of(auto: Auto, members: int) -> list[Candidate]:
    """All candidates, the mean with equal coefficients first."""
    shares: list[list[float] | None] = [None]
    if auto.favour != 1:
        for favoured in range(members):
            weights = [auto.favour if number == favoured else 1.0 for number in range(members)]
            shares.append([weight / sum(weights) for weight in weights])
    found = []
    for method in auto.methods:
        mixes = [0.0] if method.name == SIMPLE else auto.mixes or list(MIXES)
        found += [Candidate(replace(method, coefficients=share), mix) for share in shares for mix in mixes]
    return found


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

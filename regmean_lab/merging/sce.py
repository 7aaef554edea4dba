"""SCE: select, calculate, erase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.counting import Cut, cuts
from regmean_lab.merging.linear_algebra import inner_products
from regmean_lab.merging.parameters import LayerDiagnostics, Parameter
from regmean_lab.merging.pieces import Pieces, surveyed
from regmean_lab.merging.task_vectors import TaskVectorMethod, elect_and_average, task_vectors
from regmean_lab.utils.checks import fraction


@register_method("sce")
@dataclass
class Sce(TaskVectorMethod):
    """Elements of task vectors that vary most across members, weighted by their squares, averaged where signs agree.

    θ = θ₀ + λ Σ wᵢ τ̂ᵢ / Σ wᵢ over the members whose τ̂ᵢ has the elected sign, wᵢ = mean τ̂ᵢ² / Σ mean τ̂ⱼ² (Wan et al.,
    FuseChat, 2024, arXiv 2408.07990, section 3.3).

    τ̂ᵢ holds the elements of a parameter whose variance over the members is largest; all others are zero. The elected
    sign of an element is that of Σ τ̂ᵢ. Members have no weights of their own.

    Attributes:
        density: share of the elements of each parameter that is kept, of those in which the members differ at all.
        scaling: λ.
    """

    elementwise: ClassVar[bool] = True

    scaling: float = 1.0
    density: float = 0.1

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("density", self.density, found, zero=False)
        if self.coefficients is not None:
            found.append("coefficients: sce finds the weights itself; expected null")
        return found

    @override
    def survey(self, pieces: Pieces) -> _Selection | None:
        """Which elements are kept, and the members' weights; nothing of a parameter without a base."""
        if pieces.whole.base is None or len(pieces.whole.tensors) == 1:
            return None
        cut = None
        if self.density < 1:
            ((cut,),) = cuts(
                pieces.each,
                lambda piece: [variance_of(task_vectors(piece))],
                lambda _, total, varied: [total - int(self.density * varied)],
                lambda piece: piece.offset,
            )
        found = pieces.each(lambda piece: [_square(vector) for vector in _selected(piece, cut)])
        squares = [math.fsum(column) for column in zip(*found, strict=True)]
        total, count = math.fsum(squares), len(squares)
        return _Selection(cut, [square / total for square in squares] if total > 0 else [1 / count] * count)

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The base plus the scaled merged task vector; the mean of a parameter without a base."""
        if parameter.base is None or len(parameter.tensors) == 1:
            return parameter.mean(), None
        selection = surveyed(self, parameter).known
        vectors = _selected(parameter, selection.cut)
        return parameter.base + self.scaling * average_with_elected_signs(vectors, selection.weights), None


@dataclass(frozen=True)
class _Selection:
    """What is kept of a parameter's task vectors.

    Attributes:
        cut: elements whose variance comes before it are left out; None keeps all.
        weights: one a member.
    """

    cut: Cut | None
    weights: list[float]


def _selected(parameter: Parameter, cut: Cut | None) -> list[Tensor]:
    """The task vectors with all elements set to zero that are left out."""
    vectors = task_vectors(parameter)
    if cut is None:
        return vectors
    kept = cut.before(variance_of(vectors), parameter.offset).logical_not_()
    return [vector.mul_(kept) for vector in vectors]


def _square(vector: Tensor) -> float:
    return float(inner_products([vector]))


def average_with_elected_signs(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of the values that have the sign of the plain sum.

    Args:
        vectors: one a member, equal shapes.
        weights: one a member, at least 0.
    """
    elected = torch.stack(list(vectors)).sum(dim=0).sign_()
    agreeing = [vector * (vector * elected > 0) for vector in vectors]
    return elect_and_average(agreeing, weights)  # all have one sign: it elects what was elected


def variance_of(vectors: Sequence[Tensor]) -> Tensor:
    """The variance of each element over tensors of equal shape, rounded once where the device has float64."""
    wide = vectors if vectors[0].device.type == "mps" else [vector.double() for vector in vectors]
    mean = torch.stack(list(wide)).mean(dim=0)
    total = torch.zeros_like(mean)
    for vector in wide:
        total.add_((vector - mean).square_())
    return total.div_(len(vectors)).to(vectors[0])

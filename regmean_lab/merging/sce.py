"""SCE: select, calculate, erase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import LayerDiagnostics, Parameter, register_method
from regmean_lab.merging.linear_algebra import inner_products
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

    scaling: float = 1.0
    density: float = 0.1

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("density", self.density, found, zero=False)
        if self.coefficients is not None:
            found.append("coefficients: sce finds the weights itself; expected null")
        return found

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The base plus the scaled merged task vector; the mean of a parameter without a base."""
        if parameter.base is None or len(parameter.tensors) == 1:
            return parameter.mean(), None
        vectors = task_vectors(parameter)
        if self.density < 1:
            chosen = most_varied(vectors, self.density)
            vectors = [vector * chosen for vector in vectors]
        squares = [float(inner_products([vector])) / max(1, vector.numel()) for vector in vectors]
        total = sum(squares)
        weights = [square / total for square in squares] if total > 0 else [1 / len(vectors)] * len(vectors)
        return parameter.base + self.scaling * average_with_elected_signs(vectors, weights), None


def average_with_elected_signs(vectors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of the values that have the sign of the plain sum.

    Args:
        vectors: one a member, equal shapes.
        weights: one a member, at least 0.
    """
    elected = torch.stack(list(vectors)).sum(dim=0).sign_()
    agreeing = [torch.where(vector * elected > 0, vector, torch.zeros_like(vector)) for vector in vectors]
    return elect_and_average(agreeing, weights)  # all have one sign: it elects what was elected


def most_varied(vectors: Sequence[Tensor], density: float) -> Tensor:
    """The elements in which tensors differ most: 1 there and 0 elsewhere, of one tensor's shape.

    Args:
        vectors: one a member, equal shapes.
        density: share of the elements whose variance is not zero.
    """
    variance = torch.stack(list(vectors)).var(dim=0, correction=0)
    count = int(density * int(torch.count_nonzero(variance)))
    chosen = torch.zeros(variance.numel(), dtype=variance.dtype, device=variance.device)
    chosen[variance.flatten().topk(count).indices] = 1
    return chosen.reshape(variance.shape)

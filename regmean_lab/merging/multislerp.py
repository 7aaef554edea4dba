"""The mean of directions and of lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.free_weights import FreeWeights, shares
from regmean_lab.merging.parameters import LayerDiagnostics, Parameter
from regmean_lab.merging.pieces import Pieces, inner_products_of, surveyed
from regmean_lab.merging.task_vectors import task_vectors, weighted_sum


@register_method("multislerp")
@dataclass
class MultiSlerp(FreeWeights):
    """Each parameter's direction is that of the sum of the members' directions, its length their mean length.

    θ = θ₀ + (Σ wᵢ ‖τᵢ‖) u / ‖u‖ with u = Σ wᵢ τᵢ / ‖τᵢ‖ (Multi-SLERP, Goddard,
    https://goddard.blog/posts/multislerp-wow-what-a-cool-idea).

    There, u / ‖u‖ is the point at whose tangent space the directions are averaged. As they add up to zero in it, that
    point is the result. Where the directions cancel each other the result is the weighted mean.

    Attributes:
        from_base: task vectors are merged; otherwise θ₀ = 0. A parameter that the base does not have is taken as
            without.
        normalize: with weights, whether they are divided by their sum; null is true.
    """

    elementwise: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    from_base: bool = False

    @property
    @override
    def needs_base(self) -> bool:
        return self.from_base

    @override
    def survey(self, pieces: Pieces) -> list[float]:
        """The members' factors."""
        whole = pieces.whole
        weights = list(whole.coefficients)
        if whole.factors is not None:
            weights = list(whole.factors) if self.normalize is False else shares(whole.factors)
        return _on_the_sphere(inner_products_of(pieces, self._vectors), weights) or weights

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The members' mean direction, as long as they are on average."""
        if len(parameter.tensors) == 1:
            return parameter.tensors[0].clone(), None
        merged = weighted_sum(self._vectors(parameter), surveyed(self, parameter).known)
        return parameter.base + merged if self.from_base and parameter.base is not None else merged, None

    def _vectors(self, parameter: Parameter) -> list[Tensor]:
        return task_vectors(parameter) if self.from_base and parameter.base is not None else list(parameter.tensors)


def _on_the_sphere(products: Tensor, weights: list[float]) -> list[float] | None:
    """Factors of the vectors whose sum has their mean direction and length; None where directions cancel each other.

    Args:
        products: inner products of the vectors, float64 [n, n].
        weights: one a vector.
    """
    lengths = products.diagonal().sqrt()
    known = lengths > 0
    share = torch.tensor(weights, dtype=torch.float64)
    turned = torch.where(known, share / torch.where(known, lengths, 1.0), 0.0)
    length = math.sqrt(max(0.0, float(turned @ products.double() @ turned)))
    if length < 1e-8:
        return None
    factors: list[float] = (turned * (float(share @ lengths.double()) / length)).tolist()
    return factors

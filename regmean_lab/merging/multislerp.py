"""The mean of directions and of lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import LayerDiagnostics, Parameter, register_method
from regmean_lab.merging.free_weights import FreeWeights, shares
from regmean_lab.merging.linear_algebra import inner_products
from regmean_lab.merging.task_vectors import weighted_sum


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

    divides: ClassVar[bool] = True

    from_base: bool = False

    @property
    @override
    def needs_base(self) -> bool:
        return self.from_base

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The members' mean direction, as long as they are on average."""
        if len(parameter.tensors) == 1:
            return parameter.tensors[0].clone(), None
        base = parameter.base if self.from_base else None
        vectors = list(parameter.tensors) if base is None else [tensor - base for tensor in parameter.tensors]
        weights = list(parameter.coefficients)
        if parameter.factors is not None:
            weights = list(parameter.factors) if self.normalize is False else shares(parameter.factors)
        merged = weighted_sum(vectors, _on_the_sphere(inner_products(vectors), weights) or weights)
        return merged if base is None else base + merged, None


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

"""Spherical interpolation of task vectors, or row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import LayerDiagnostics, Parameter, register_method
from regmean_lab.merging.free_weights import FreeWeights

PARALLEL = 1e-6
"""Sines of angles below which two vectors are interpolated on the line between them."""


@register_method("nuslerp")
@dataclass
class NuSlerp(FreeWeights):
    """Spherical interpolation of two members, optionally of task vectors, of whole tensors or vector by vector.

    θ = θ₀ + (sin((1 − t) Ω) τ₁ + sin(t Ω) τ₂) / sin Ω with Ω the angle between τ₁ and τ₂ (Shoemake, SIGGRAPH 1985, for
    differences from a base, as in mergekit's method of this name).

    t = w₂ / (w₁ + w₂), of weights or coefficients; weights that cancel each other count alike. Where two vectors are
    parallel, opposite or zero, the result is their linear interpolation.

    Attributes:
        from_base: interpolate the task vectors; otherwise θ₀ = 0. A parameter that the base does not have is taken as
            without.
        flatten: a tensor is one vector; otherwise each of its rows is one.
        by_column: without flatten, vectors lie along the first dimension instead of the last.
    """

    from_base: bool = False
    flatten: bool = True
    by_column: bool = False

    @property
    @override
    def needs_base(self) -> bool:
        return self.from_base

    @override
    def count_problems(self, members: int) -> list[str]:
        return [] if members == 2 else [f"members: nuslerp merges exactly two, got {members}"]

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """A point on the arc between the two members, or one on the arc of each pair of vectors."""
        if len(parameter.tensors) == 1:  # the row of a label that one member's data annotates
            return parameter.tensors[0].clone(), None
        base = parameter.base if self.from_base else None
        one, other = parameter.tensors if base is None else (tensor - base for tensor in parameter.tensors)
        first, second = parameter.weights
        share = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
        merged = arc(one, other, share, self._dimension(one.dim()))
        return merged if base is None else base + merged, None

    def _dimension(self, count: int) -> int | None:
        """The dimension along which vectors lie; None where a tensor is one."""
        if self.flatten or count < 2:
            return None
        return 0 if self.by_column else count - 1


def arc(one: Tensor, other: Tensor, share: float, dimension: int | None) -> Tensor:
    """Points on the arcs between vectors of two tensors of equal shape; angles are found in float64 where there is it.

    Args:
        one: where the arcs begin.
        other: where they end.
        share: how far along the arcs: 0 is ``one``, 1 is ``other``.
        dimension: along which vectors lie; None for all elements as one vector.
    """
    over = tuple(range(one.dim())) if dimension is None else (dimension,)
    wide = [tensor if one.device.type == "mps" else tensor.double() for tensor in (one, other)]
    lengths = [torch.linalg.vector_norm(tensor, dim=over, keepdim=True) for tensor in wide] if one.dim() else wide
    product = (wide[0] * wide[1]).sum(dim=over, keepdim=True) if one.dim() else wide[0] * wide[1]
    both = lengths[0] * lengths[1]
    cosine = torch.where(both != 0, product / torch.where(both != 0, both, 1), 1.0).clamp(-1, 1)
    angle = cosine.arccos()
    sine = angle.sin()
    flat = sine < PARALLEL
    sine = torch.where(flat, 1.0, sine)
    begin = torch.where(flat, torch.full_like(angle, 1 - share), ((1 - share) * angle).sin() / sine)
    end = torch.where(flat, torch.full_like(angle, share), (share * angle).sin() / sine)
    return begin.to(one) * one + end.to(one) * other

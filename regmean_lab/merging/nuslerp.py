"""Spherical interpolation of task vectors, or row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.free_weights import FreeWeights
from regmean_lab.merging.parameters import LayerDiagnostics, LinearLayer, Parameter
from regmean_lab.merging.pieces import Pieces, inner_products_of, surveyed
from regmean_lab.merging.task_vectors import task_vectors

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

    elementwise: ClassVar[bool] = True

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

    @override
    def divisible(self, shape: Sequence[int], layer: LinearLayer | None) -> bool:
        """Vectors along the first dimension are merged whole."""
        return self._dimension(len(shape)) != 0

    @override
    def survey(self, pieces: Pieces) -> list[float] | None:
        """The factors of the two, where a tensor is one vector."""
        whole = pieces.whole
        if self._dimension(whole.tensors[0].dim()) is not None:
            return None
        return _factors(inner_products_of(pieces, self._vectors), self._share(whole))

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """A point on the arc between the two members, or one on the arc of each pair of vectors."""
        if len(parameter.tensors) == 1:  # the row of a label that one member's data annotates
            return parameter.tensors[0].clone(), None
        vectors, dimension = self._vectors(parameter), self._dimension(parameter.tensors[0].dim())
        if dimension is None:
            begin, end = surveyed(self, parameter).known
            merged = begin * vectors[0] + end * vectors[1]
        else:
            merged = arc(vectors[0], vectors[1], self._share(parameter), dimension)
        return parameter.base + merged if self.from_base and parameter.base is not None else merged, None

    def _vectors(self, parameter: Parameter) -> list[Tensor]:
        return task_vectors(parameter) if self.from_base and parameter.base is not None else list(parameter.tensors)

    def _share(self, parameter: Parameter) -> float:
        """How far along the arcs the result lies."""
        first, second = parameter.weights
        return 0.5 if abs(first + second) < 1e-6 else second / (first + second)

    def _dimension(self, count: int) -> int | None:
        """The dimension along which vectors lie; None where a tensor is one."""
        if self.flatten or count < 2:
            return None
        return 0 if self.by_column else count - 1


def _factors(products: Tensor, share: float) -> list[float]:
    """The factors of two vectors whose sum lies on the arc between them, or on the line where there is no arc.

    Args:
        products: their inner products, [2, 2].
        share: how far along the arc.
    """
    both = math.sqrt(float(products[0, 0])) * math.sqrt(float(products[1, 1]))
    angle = math.acos(max(-1.0, min(1.0, float(products[0, 1]) / both))) if both else 0.0
    if math.sin(angle) < PARALLEL:
        return [1 - share, share]
    return [math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)]


def arc(one: Tensor, other: Tensor, share: float, dimension: int) -> Tensor:
    """Points on the arcs between vectors of two tensors of equal shape; angles are found in float64 where there is it.

    Args:
        one: where the arcs begin.
        other: where they end.
        share: how far along the arcs: 0 is ``one``, 1 is ``other``.
        dimension: along which vectors lie.
    """
    wide = [tensor if one.device.type == "mps" else tensor.double() for tensor in (one, other)]
    lengths = [torch.linalg.vector_norm(tensor, dim=dimension, keepdim=True) for tensor in wide]
    product, both = (wide[0] * wide[1]).sum(dim=dimension, keepdim=True), lengths[0] * lengths[1]
    cosine = torch.where(both != 0, product / torch.where(both != 0, both, 1), 1.0).clamp(-1, 1)
    angle = cosine.arccos()
    sine = angle.sin()
    flat = sine < PARALLEL
    sine = torch.where(flat, 1.0, sine)
    begin = torch.where(flat, torch.full_like(angle, 1 - share), ((1 - share) * angle).sin() / sine)
    end = torch.where(flat, torch.full_like(angle, share), (share * angle).sin() / sine)
    return begin.to(one) * one + end.to(one) * other

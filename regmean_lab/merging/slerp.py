"""Spherical linear interpolation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.parameters import LayerDiagnostics, Parameter
from regmean_lab.merging.pieces import Pieces, inner_products_of, surveyed
from regmean_lab.merging.task_vectors import weighted_sum


@register_method("slerp")
@dataclass
class Slerp(MergeMethod):
    """Spherical interpolation between two members, for each parameter separately.

    θ = (sin((1 − t) Ω) θ₁ + sin(t Ω) θ₂) / sin Ω, Ω the angle between two members (Shoemake, SIGGRAPH 1985).

    t is the second coefficient. Where the two are parallel, opposite or zero, so that
    there is no such arc, it is their linear interpolation.
    """

    elementwise: ClassVar[bool] = True

    def count_problems(self, members: int) -> list[str]:
        """Two models are interpolated, neither more nor fewer."""
        return [] if members == 2 else [f"members: slerp merges exactly two, got {members}"]

    @override
    def survey(self, pieces: Pieces) -> list[float]:
        """The factors of the two; none where there is no arc."""
        products = inner_products_of(pieces, lambda piece: piece.tensors)
        lengths = math.sqrt(float(products[0, 0] * products[1, 1]))
        cosine = max(-1.0, min(1.0, float(products[0, 1]) / lengths)) if lengths > 0 else 1.0
        angle = math.acos(cosine)
        if math.sin(angle) < 1e-6:
            return []
        return [math.sin(share * angle) / math.sin(angle) for share in pieces.whole.coefficients]

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """A point on the arc between the two members."""
        if len(parameter.tensors) == 1:  # the row of a label that one member's data annotates
            return parameter.tensors[0].clone(), None
        factors = surveyed(self, parameter).known
        return weighted_sum(parameter.tensors, factors) if factors else parameter.mean(), None

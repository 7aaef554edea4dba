"""The Karcher mean: a mean on the sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.parameters import LayerDiagnostics, Parameter
from regmean_lab.merging.pieces import Pieces, inner_products_of, surveyed
from regmean_lab.merging.task_vectors import weighted_sum
from regmean_lab.utils.checks import at_least_one, positive


@register_method("karcher")
@dataclass
class Karcher(MergeMethod):
    """Each parameter's length is the mean of the members' lengths; its direction their Karcher mean on the unit sphere.

    The Karcher mean m minimises Σ cᵢ ∠(m, θᵢ)² and is found by following the mean of the directions' logarithms at m
    (Karcher, Communications on Pure and Applied Mathematics 30, 1977). A member's parameter that is zero has no
    direction and counts towards the length only. Where directions cancel each other the mean is the arithmetic one.

    Attributes:
        iterations: most steps for one parameter.
        tolerance: stop when a step is at most so long (an angle in radians).
    """

    elementwise: ClassVar[bool] = True

    iterations: int = 100
    tolerance: float = 1e-7

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        at_least_one("iterations", self.iterations, found)
        positive("tolerance", self.tolerance, found)
        return found

    @override
    def survey(self, pieces: Pieces) -> list[float]:
        """The members' factors; none where directions cancel each other, or all are zero."""
        products = inner_products_of(pieces, lambda piece: piece.tensors)
        norms = products.diagonal().sqrt()
        shares = torch.tensor(pieces.whole.coefficients, dtype=torch.float64)
        directed = (norms > 0) & (shares > 0)
        if not directed.any():
            return []
        cosines = products[directed][:, directed] / norms[directed].outer(norms[directed])
        direction = self._direction(cosines, shares[directed] / shares[directed].sum())
        if direction is None:
            return []
        weights = torch.zeros_like(norms)
        weights[directed] = direction / norms[directed] * torch.dot(shares, norms)
        factors: list[float] = weights.tolist()
        return factors

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The Karcher mean of the members' directions, as long as they are on average."""
        factors = surveyed(self, parameter).known
        return weighted_sum(parameter.tensors, factors) if factors else parameter.mean(), None

    def _direction(self, cosines: Tensor, shares: Tensor) -> Tensor | None:
        """The Karcher mean of unit vectors as a combination of them, from their inner products; None if they cancel.

        Everything happens in the space that the vectors span, so that only their inner products are needed.
        """
        combination = _unit(shares, cosines)
        for _ in range(self.iterations):
            if combination is None:
                return None
            along = (cosines @ combination).clamp(-1, 1)
            if bool((along <= -1 + 1e-12).any()):
                return None
            angles = along.arccos()
            factors = shares / torch.where(angles > 1e-8, angles.sin() / angles, 1.0)
            tangent = factors - torch.dot(factors, along) * combination
            step = math.sqrt(max(0.0, float(tangent @ cosines @ tangent)))
            if step <= self.tolerance:
                break
            combination = _unit(combination * math.cos(step) + tangent * (math.sin(step) / step), cosines)
        return combination


def _unit(combination: Tensor, cosines: Tensor) -> Tensor | None:
    """A combination of unit vectors scaled to length 1, None if it is nearly zero."""
    length = math.sqrt(max(0.0, float(combination @ cosines @ combination)))
    return combination / length if length > 1e-6 else None

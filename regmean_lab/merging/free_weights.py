"""Weights of any sign and sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from regmean_lab.merging.base import MergeMethod

CANCEL = 1e-8
"""Sums of weights below this count as 0."""


@dataclass
class FreeWeights(MergeMethod):
    """Base of methods whose members may have weights of any sign and sum: extrapolation, and negation of a task.

    Attributes:
        weights: weight of each member, in the members' order, of any sign and sum, in place of coefficients.
        normalize: with weights, whether the weighted sum is divided by the sum of the weights; null as the method is
            published.
    """

    weights: list[float] | None = None
    normalize: bool | None = None

    divides: ClassVar[bool] = False
    """Whether it divides by the sum of the weights unless told not to, so that there must be one."""

    @property
    @override
    def free_weights(self) -> list[float] | None:
        return self.weights

    @override
    def count_problems(self, members: int) -> list[str]:
        return [] if self.weights is not None and members == 1 else super().count_problems(members)

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if self.weights is None:
            if self.normalize is not None:
                found.append("normalize: it concerns weights, and none are given")
            return found
        if not all(map(math.isfinite, self.weights)):
            found.append(f"weights: expected numbers, got {self.weights}")
        elif self.divides and self.normalize is not False and abs(math.fsum(self.weights)) < CANCEL:
            found.append(f"weights: they add up to 0, by which the sum would be divided, got {self.weights}")
        if self.coefficients is not None:
            found.append("weights: given beside coefficients; expected one of the two")
        return found


def divisor(weights: Sequence[float]) -> float:
    """The sum of weights that a weighted sum is divided by; 1 where they cancel, as there is nothing to divide by."""
    total = math.fsum(weights)
    return total if abs(total) >= CANCEL else 1.0


def shares(weights: Sequence[float]) -> list[float]:
    """Weights divided by their sum."""
    total = divisor(weights)
    return [weight / total for weight in weights]

"""DARE: drop and rescale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import Parameter, register_method
from regmean_lab.merging.task_vectors import (
    ElementwiseMethod,
    combination_problems,
    combine,
    drop_and_rescale,
    uniform_numbers,
)
from regmean_lab.utils.checks import fraction


@register_method("dare")
@dataclass
class Dare(ElementwiseMethod):
    """Drop elements of the task vectors at random, rescale the others, and merge what is left.

    τ̃ᵢ = mᵢ ⊙ τᵢ / (1 − p) with mᵢ = 0 with probability p and 1 otherwise, whose expectation is τᵢ (Yu et al., ICML
    2024).

    Attributes:
        drop_rate: p, below 1.
        then: ``linear``: the mean of the τ̃ᵢ; ``ties``: the mean of those values that have the elected sign (of TIES
            without its trimming, which dropping replaces).
        seed: which elements are dropped; the same ones on every device.
        scaling: factor on what was merged. For the published merge with task arithmetic, Σ λ τ̃ᵢ of n members, it is
            n λ with ``linear``.
    """

    drop_rate: float = 0.2
    then: str = "linear"
    seed: int = 0

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("drop_rate", self.drop_rate, found, one=False)
        combination_problems(self.then, found)
        return found

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The merged sparse task vectors."""
        sparse = [
            drop_and_rescale(vector, uniform_numbers(self.seed, parameter, number), self.drop_rate)
            for number, vector in enumerate(vectors)
        ]
        return combine(self.then, sparse, parameter)

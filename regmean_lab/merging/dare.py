"""DARE: drop and rescale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.parameters import Parameter
from regmean_lab.merging.pieces import Pieces
from regmean_lab.merging.random_numbers import UniformNumbers
from regmean_lab.merging.task_vectors import ElementwiseMethod, combination_problems, drop_and_rescale
from regmean_lab.utils.checks import fraction


@register_method("dare")
@dataclass
class Dare(ElementwiseMethod):
    """Drop elements of the task vectors at random, rescale the others, and merge what is left.

    τ̃ᵢ = mᵢ ⊙ τᵢ / (1 − p) with mᵢ = 0 with probability p and 1 otherwise, whose expectation is τᵢ (Yu et al., ICML
    2024).

    Attributes:
        drop_rate: p, below 1.
        density: the share that is kept, 1 − p, in place of p.
        then: ``linear``: the mean of the τ̃ᵢ; ``ties``: the mean of those values that have the elected sign (of TIES
            without its trimming, which dropping replaces).
        seed: which elements are dropped; the same ones on every device.
        rescale: divide what is kept by 1 − p, as published.
        scaling: factor on what was merged. For the published merge with task arithmetic, Σ λ τ̃ᵢ of n members, it is
            n λ with ``linear``.
    """

    drop_rate: float = 0.2
    then: str = "linear"
    seed: int = 0
    density: float | None = None
    rescale: bool = True

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("drop_rate", self.drop_rate, found, one=False)
        if self.density is not None:
            fraction("density", self.density, found, zero=False)
        combination_problems(self.then, found)
        return found

    @override
    def survey_vectors(self, pieces: Pieces) -> Any:
        """The random numbers, which all pieces draw from."""
        return UniformNumbers(self.seed)

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The merged sparse task vectors."""
        sparse = [
            self._thinned(vector, parameter.known.of(parameter, number), self._rate(parameter, number))
            for number, vector in enumerate(vectors)
        ]
        return self.combined(sparse, parameter, elect=self.then == "ties")

    def _rate(self, parameter: Parameter, member: int) -> float:
        kept = 1 - self.drop_rate if self.density is None else self.density
        own = parameter.setting(member, "density", kept)
        return self.drop_rate if own == 1 - self.drop_rate else 1 - own

    def _thinned(self, vector: Tensor, numbers: Tensor, rate: float) -> Tensor:
        if rate >= 1:
            return torch.zeros_like(vector)
        return drop_and_rescale(vector, numbers, rate, rescale=self.rescale)

"""DELLA: drop by magnitude, elect signs, fuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import LinearLayer, Parameter, register_method
from regmean_lab.merging.task_vectors import (
    ElementwiseMethod,
    combination_problems,
    combine,
    drop_and_rescale,
    oriented,
    uniform_numbers,
)
from regmean_lab.utils.checks import fraction


@register_method("della")
@dataclass
class Della(ElementwiseMethod):
    """Drop elements of the task vectors at random, small ones more often, rescale the others, and merge as TIES does.

    In each row of n elements the one of rank r = 0, …, n − 1 by magnitude is dropped with the probability
    p_r = p + ε/2 − ε r / (n − 1) and divided by 1 − p_r otherwise (MagPrune of Deep, Bhardwaj and Poria, 2024, arXiv
    2406.11617, with the ends of the interval as in the authors' program). A row is what leads to one output of a linear
    layer, a row of any other matrix, or a whole vector.

    Attributes:
        drop_rate: p, the mean.
        window: ε, the difference between the drop rates of the smallest and the largest element of a row.
        then: ``ties``: the mean of those values that have the elected sign, as published; ``linear``: the mean of all.
        seed: which elements are dropped; the same ones on every device.
        scaling: factor on what was merged.
    """

    scaling: float = 1.1
    drop_rate: float = 0.3
    window: float = 0.14
    then: str = "ties"
    seed: int = 0

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        wrong = len(found)
        fraction("drop_rate", self.drop_rate, found, one=False)
        if len(found) == wrong and not (0 <= self.window <= 2 * self.drop_rate and self._largest < 1):
            found.append(
                f"window: expected at least 0 and drop_rate ± window / 2 from 0 to below 1, got {self.window} "
                f"with drop_rate={self.drop_rate}"
            )
        combination_problems(self.then, found)
        return found

    @property
    def _largest(self) -> float:
        return self.drop_rate + self.window / 2

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The merged sparse task vectors."""
        sparse = []
        for number, vector in enumerate(vectors):
            numbers = uniform_numbers(self.seed, parameter, number)
            sparse.append(drop_and_rescale(vector, numbers, self._rates(vector, parameter.layer)))
        return combine(self.then, sparse, parameter)

    def _rates(self, vector: Tensor, layer: LinearLayer | None) -> Tensor:
        """The drop rate of each element, of the vector's shape."""
        turned = vector if layer is None else oriented(vector, layer)
        rows = turned.abs().reshape(turned.shape[0] if turned.dim() > 1 else 1, -1)
        ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).to(vector.dtype)
        highest = rows.shape[1] - 1
        rates = self._largest - self.window * (ranks / highest if highest else ranks + 0.5)
        rates = rates.reshape(turned.shape)
        return rates if layer is None else oriented(rates, layer)

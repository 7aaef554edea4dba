"""DELLA: drop by magnitude, elect signs, fuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.parameters import LinearLayer, MergeError, Parameter
from regmean_lab.merging.pieces import Pieces
from regmean_lab.merging.random_numbers import UniformNumbers
from regmean_lab.merging.task_vectors import ElementwiseMethod, combination_problems, drop_and_rescale, oriented
from regmean_lab.utils.checks import fraction

RANGE = "at least 0, and density ± epsilon above 0 and at most 1"


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
        density: the share that is kept on average, 1 − p, in place of p.
        window: ε, the difference between the drop rates of the smallest and the largest element of a row.
        epsilon: half of it, by which drop rates lie above and below p, in place of the window.
        then: ``ties``: the mean of those values that have the elected sign, as published; ``linear``: the mean of all.
        seed: which elements are dropped; the same ones on every device.
        rescale: divide what is kept by 1 − p_r, as published.
        scaling: factor on what was merged.
    """

    scaling: float = 1.1
    drop_rate: float = 0.3
    window: float = 0.14
    then: str = "ties"
    seed: int = 0
    density: float | None = None
    epsilon: float | None = None
    rescale: bool = True

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        wrong = len(found)
        fraction("drop_rate", self.drop_rate, found, one=False)
        if self.density is not None:
            fraction("density", self.density, found, zero=False)
        rate, window = self._rate, self._width
        if (
            len(found) == wrong
            and (rate > 0 or self.density is None)
            and not (0 <= window <= 2 * rate and rate + window / 2 < 1)
        ):
            given = f"epsilon: expected {RANGE}, got {self.epsilon} with density={1 - rate:g}"
            if self.epsilon is None:
                given = (
                    f"window: expected at least 0 and drop_rate ± window / 2 from 0 to below 1, got {self.window} "
                    f"with drop_rate={rate:g}"
                )
            found.append(given)
        combination_problems(self.then, found)
        return found

    @property
    def _rate(self) -> float:
        return self.drop_rate if self.density is None else 1 - self.density

    @property
    def _width(self) -> float:
        return self.window if self.epsilon is None else 2 * self.epsilon

    @override
    def divisible(self, shape: Sequence[int], layer: LinearLayer | None) -> bool:
        """A row is merged whole."""
        return len(shape) > 1 and not (layer is not None and layer.transposed)

    @override
    def survey_vectors(self, pieces: Pieces) -> Any:
        """The random numbers, which all pieces draw from."""
        return UniformNumbers(self.seed)

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The merged sparse task vectors."""
        sparse = []
        for number, vector in enumerate(vectors):
            rate, width = self._of(parameter, number)
            if rate <= 0:
                sparse.append(vector)
            elif rate >= 1:
                sparse.append(torch.zeros_like(vector))
            else:
                numbers = parameter.known.of(parameter, number)
                rates = drop_rates(vector, parameter.layer, rate, width)
                sparse.append(drop_and_rescale(vector, numbers, rates, rescale=self.rescale))
        return self.combined(sparse, parameter, elect=self.then == "ties")

    def _of(self, parameter: Parameter, member: int) -> tuple[float, float]:
        """Mean and width of the drop rates of one member's task vector.

        Raises:
            MergeError: when they leave the range from 0 to 1.
        """
        if not parameter.own:
            return self._rate, self._width
        rate = 1 - parameter.setting(member, "density", 1 - self._rate)
        width = 2 * parameter.setting(member, "epsilon", self._width / 2)
        if 0 < rate < 1 and not (0 <= width <= 2 * rate + 1e-12 and rate + width / 2 < 1):
            raise MergeError(
                f"{parameter.name}: epsilon: expected {RANGE}, got {width / 2:g} with density={1 - rate:g} "
                f"({parameter.members[member].name})"
            )
        return rate, width


def drop_rates(vector: Tensor, layer: LinearLayer | None, rate: float, width: float) -> Tensor:
    """The drop rate of each element, of the vector's shape.

    Args:
        vector: the task vector.
        layer: the linear layer whose weight it is, or None.
        rate: p, the mean.
        width: ε, the difference between the rates of the smallest and the largest element of a row.
    """
    turned = vector if layer is None else oriented(vector, layer)
    rows = turned.abs().reshape(turned.shape[0] if turned.dim() > 1 else 1, -1)
    highest = rows.shape[1] - 1
    ranks = torch.arange(rows.shape[1], device=rows.device).to(vector.dtype)
    by_rank = rate + width / 2 - width * (ranks / highest if highest else ranks + 0.5)
    rates = torch.empty_like(rows).scatter_(1, _ascending(rows), by_rank.expand_as(rows)).reshape(turned.shape)
    return rates if layer is None else oriented(rates, layer)


def _ascending(rows: Tensor) -> Tensor:
    """The order of the elements of each row by magnitude, of equal ones by their place, int64 [rows, columns].

    Args:
        rows: at least 0, [rows, columns].
    """
    if rows.device.type != "cpu" or rows.dtype != torch.float32:
        return rows.argsort(dim=1, stable=True)
    # As whole numbers that hold the magnitude's bits and the place, which NumPy sorts many times faster.
    keys = rows.contiguous().view(torch.int32).long().bitwise_left_shift_(32)
    keys.bitwise_or_(torch.arange(rows.shape[1]))
    keys.numpy().sort(axis=1)
    return keys.bitwise_and_((1 << 32) - 1)

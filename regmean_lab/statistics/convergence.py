"""When Gram matrices have been collected from enough examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .gram import GramAccumulator

FIRST_COMPARISON = 64
"""Number of examples after which matrices are kept for the first time, to be compared with those of twice as many."""


def doubling_rounds(examples: int, passes: int = 1) -> Iterator[tuple[int, int]]:
    """The first and the last (exclusive) of the examples that come between comparisons: 0–64, 64–128, 128–256.

    Args:
        examples: number of examples in all.
        passes: how often each of them is counted.
    """
    start, end = 0, FIRST_COMPARISON // passes
    while start < examples:
        yield start, min(end, examples)
        start, end = end, 2 * end


class ConvergenceRule:
    """Tells when Gram matrices have converged: compares the means over n examples and over n / 2.

    With examples in random order the relative change is about the relative sampling error of the mean over half of
    them. Comparing after every batch instead would measure how small a share of the examples a batch is.

    Args:
        tolerance: the largest change, relative in the Frobenius norm, of any layer's matrix that does not count as one.

    Attributes:
        change: the largest relative change of a matrix at the last comparison; None before the first.
    """

    def __init__(self, tolerance: float) -> None:
        self.change: float | None = None
        self._tolerance = tolerance
        self._last: Sequence[Tensor] = ()
        self._next_comparison = FIRST_COMPARISON

    def converged(self, accumulator: GramAccumulator) -> bool:
        """Whether to stop; to be asked after every batch. Compares only when the number of examples has doubled.

        The matrices are kept until the next comparison, on the device that computes.
        """
        if accumulator.examples < self._next_comparison:
            return False
        self._next_comparison = 2 * accumulator.examples
        before, self._last = self._last, accumulator.means()
        if not before:
            return False
        self.change = largest_change(before, self._last)
        return self.change <= self._tolerance


def largest_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest of ``‖new − old‖ / ‖new‖`` over pairs of symmetric matrices, given their upper triangles.

    A matrix of zeros that stays one has not changed; neither has one that is not finite, so that the error is reported
    at once. A layer more or fewer is an infinite change.
    """
    if len(before) != len(after):
        return math.inf
    changes = [_norm(new - old) / _norm(new) for old, new in zip(before, after, strict=True)]
    # All at once: reading a number waits for the device.
    return float(torch.stack(changes).nan_to_num(0.0).max())


def _norm(upper: Tensor) -> Tensor:
    """The Frobenius norm of a symmetric matrix, given its upper triangle."""
    return (2 * upper.square().sum() - upper.diagonal().square().sum()).sqrt()

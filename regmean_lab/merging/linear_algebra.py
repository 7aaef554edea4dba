"""Linear algebra that merge methods share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT64_LIMIT = 4096
"""Widest system that an accelerator solves in float64 (its double precision can be 2 to 64 times slower)."""

_FIRST_JITTER = {torch.float64: 1e-12, torch.float32: 1e-6}
_LAST_JITTER = 1.0


@dataclass(frozen=True)
class Solution:
    """Solution of a symmetric positive semi-definite system.

    Attributes:
        value: the solution, shape [n, m].
        jitter: what was added to the diagonal, as a multiple of its mean (0: nothing).
        condition: (largest / smallest diagonal entry of the Cholesky factor)², a lower bound of the condition number.
        unseen: number of rows of the matrix that were zero.
    """

    value: Tensor
    jitter: float
    condition: float
    unseen: int


def solve_dtype(device: torch.device, size: int) -> torch.dtype:
    """Float64 where it is cheap: on the CPU always, on an accelerator up to ``FLOAT64_LIMIT`` unknowns."""
    if device.type == "mps":  # has no float64
        return torch.float32
    return torch.float64 if device.type == "cpu" or size <= FLOAT64_LIMIT else torch.float32


def scale_off_diagonal(matrix: Tensor, factor: float) -> Tensor:
    """A copy of a square matrix with off-diagonal entries multiplied by ``factor`` (Jin et al., 2023, section 4)."""
    scaled = matrix * factor
    scaled.diagonal().copy_(matrix.diagonal())
    return scaled


def off_diagonal_share(matrix: Tensor) -> float:
    """Share of the squared Frobenius norm of a square matrix that lies off its diagonal; 0 for a zero matrix."""
    total = float(matrix.square().sum())
    return 1.0 - float(matrix.diagonal().square().sum()) / total if total > 0 else 0.0


def solve_positive(matrix: Tensor, right: Tensor) -> Solution:
    """Solve ``matrix @ x = right`` by Cholesky for a symmetric positive semi-definite matrix.

    Rows of the matrix that are zero are given the solution 0. A matrix that is singular otherwise gets the smallest of
    the jitters 10⁻¹² (float32: 10⁻⁶), ten times that, … (multiples of the mean diagonal) with which the factorisation
    succeeds, which shortens the solution in the directions that the matrix leaves open. ``matrix`` is overwritten.

    Args:
        matrix: shape [n, n], float32 or float64.
        right: shape [n, m], same dtype and device.

    Raises:
        ValueError: when the matrix is not positive semi-definite even with a jitter as large as its mean diagonal.
    """
    diagonal = matrix.diagonal()
    unseen = diagonal == 0
    seen = ~unseen
    count = int(seen.sum())
    if count == 0:
        return Solution(torch.zeros_like(right), 0.0, 1.0, len(matrix))
    mean = float(diagonal.sum()) / count
    diagonal[unseen] = mean
    original = diagonal.clone()
    jitter = 0.0
    # A factor that exists but is far beyond the precision of the dtype is as useless as none.
    worst = torch.finfo(matrix.dtype).eps ** -1
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        pivots = factor.diagonal()
        condition = float((pivots.max() / pivots.min()).square()) if not int(failed) else float("inf")
        if condition < worst:
            break
        jitter = jitter * 10 if jitter else _FIRST_JITTER[matrix.dtype]
        if jitter > _LAST_JITTER * 1.001:
            raise ValueError("the matrix is not positive semi-definite")
        diagonal.copy_(original + jitter * mean)
    value = torch.cholesky_solve(right, factor)
    value[unseen] = 0
    return Solution(value, jitter, condition, len(matrix) - count)

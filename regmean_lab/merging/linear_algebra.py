"""Linear algebra that merge methods share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT64_LIMIT = 4096
"""Widest system that an accelerator solves in float64 (its double precision can be 2 to 64 times slower)."""

_FIRST_JITTER = {torch.float64: 1e-10, torch.float32: 1e-5}
"""By the precision of a matrix's entries: well above what rounding them adds to its eigenvalues, and still little."""

_LAST_JITTER = 1.0
_ITERATIONS = 10


@dataclass(frozen=True)
class Solution:
    """Solution of a symmetric positive semi-definite system.

    Attributes:
        value: the solution, shape [n, m].
        jitter: by which share of itself every diagonal entry was raised (0: not at all).
        condition: a lower bound of the condition number of the matrix that was solved, scaled to a unit diagonal.
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


def solve_positive(matrix: Tensor, right: Tensor, entries: torch.dtype | None = None) -> Solution:
    """Solve ``matrix @ x = right`` by Cholesky for a symmetric positive semi-definite matrix.

    The matrix is scaled to a unit diagonal first, so that features of any scale count alike. Rows of the matrix that
    are zero are given the solution 0. Where the matrix is otherwise singular, as far as the precision of its entries
    can tell, its diagonal is raised by the share 10⁻¹⁰ (entries of float32: 10⁻⁵), or the smallest of ten times that, …
    that is enough. In the directions that the matrix leaves open this makes the solution (nearly) 0, as a
    pseudo-inverse would; without it, rounding errors would decide there.

    Args:
        matrix: shape [n, n], float32 or float64; overwritten.
        right: shape [n, m], same dtype and device.
        entries: the dtype in which the matrix's entries were computed, if it is not that of ``matrix``.

    Raises:
        ValueError: when the matrix is not positive semi-definite even with its diagonal doubled.
    """
    scale = matrix.diagonal().rsqrt()
    unseen = torch.isinf(scale)
    scale[unseen] = 0
    matrix.mul_(scale).mul_(scale[:, None])
    diagonal = matrix.diagonal()
    diagonal.fill_(1)
    first = max(_FIRST_JITTER[matrix.dtype], _FIRST_JITTER[entries or matrix.dtype])
    jitter = 0.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        smallest = 0.0 if int(failed) else _smallest_eigenvalue(factor)
        if smallest > first / 2:
            break
        jitter = jitter * 10 if jitter else first
        if jitter > _LAST_JITTER * 1.001:
            raise ValueError("the matrix is not positive semi-definite")
        diagonal.fill_(1 + jitter)
    value = torch.cholesky_solve(right * scale[:, None], factor).mul_(scale[:, None])
    return Solution(value, jitter, _largest_eigenvalue(matrix) / smallest, int(unseen.sum()))


def _smallest_eigenvalue(factor: Tensor) -> float:
    """Upper bound, nearly always close, of the smallest eigenvalue of a Cholesky factor's matrix: inverse iteration."""
    vector = _start(factor)
    for _ in range(_ITERATIONS):
        vector = torch.cholesky_solve(vector / vector.norm(), factor)
    return 1 / float(vector.norm())


def _largest_eigenvalue(matrix: Tensor) -> float:
    """Lower bound, nearly always close, of the largest eigenvalue of a symmetric matrix: power iteration."""
    vector = _start(matrix)
    for _ in range(_ITERATIONS):
        vector = matrix @ (vector / vector.norm())
    return float(vector.norm())


def _start(matrix: Tensor) -> Tensor:
    """The same random vector every time, shape [n, 1]: hardly at right angles to the eigenvector sought."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(matrix), 1, generator=generator, dtype=torch.float64).to(matrix)

"""Changes of low rank: the truncated singular value decomposition, and merging in the core space of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regmean_lab.merging.linear_algebra import solve_device, solve_dtype
from regmean_lab.merging.singular_values import singular_values


@dataclass(frozen=True)
class LowRank:
    """A matrix ``left @ right``, near another one.

    Attributes:
        left: shape [m, r].
        right: shape [r, n].
        squares: squared Frobenius norm of the matrix that it is near to.
        kept: squared Frobenius norm of ``left @ right``.
    """

    left: Tensor
    right: Tensor
    squares: float
    kept: float

    @property
    def rank(self) -> int:
        """Number of columns of ``left``: at most the rank that was asked for."""
        return self.left.shape[1]


def truncated(matrix: Tensor, rank: int) -> LowRank:
    """The nearest matrix of a rank in the Frobenius norm: the truncated singular value decomposition.

    U √S and √S Vᵀ of the largest singular values (Eckart and Young, Psychometrika 1, 1936), so that both factors are of
    one size. Singular values that are zero up to rounding are left out, so the rank may be lower.

    Args:
        matrix: shape [m, n], floating point.
        rank: at least 1.

    Returns:
        Factors in the matrix's dtype on its device; decomposed in float64 where that is cheap.

    Raises:
        ValueError: when the decomposition does not converge.
    """
    device = solve_device(matrix.device)
    precise = matrix.to(device, solve_dtype(device, min(matrix.shape)))
    # Of a difference of float32 tensors, what lies below their precision is rounding.
    parts = singular_values(precise).first(rank)
    roots = parts.values.sqrt()
    squares = float(precise.square().sum())
    kept = min(float(parts.values.square().sum()), squares)
    return LowRank((parts.left * roots).to(matrix), (roots[:, None] * parts.right).to(matrix), squares, kept)


class CoreSpace:
    """The space that the factors of several adapters of one layer span (Panariello et al., 2025, arXiv:2509.17786).

    Orthonormal bases U of the columns of all B and V of the rows of all A: each change Bᵢ Aᵢ is U Cᵢ Vᵀ with the core
    Cᵢ = Uᵀ Bᵢ Aᵢ V, at most as large as the sum of the ranks. Nothing is lost: whatever is linear in the changes is the
    same in the cores, and so are inner products and singular values.

    Args:
        factors: of each adapter that has the layer, B [m, r] with its scale and A [r, n]; at least one.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor]]) -> None:
        first = factors[0][0]
        device = solve_device(first.device)
        dtype = solve_dtype(device, sum(b.shape[1] for b, _ in factors))
        self._factors = [(b.to(device, dtype), a.to(device, dtype)) for b, a in factors]
        self._like = first
        columns = torch.cat([b for b, _ in self._factors], 1)
        rows = torch.cat([a for _, a in self._factors], 0)
        self.left = singular_values(columns).left
        """U, shape [m, p]: p is at most the sum of the ranks."""
        self.right = singular_values(rows).right
        """Vᵀ, shape [q, n]: q is at most the sum of the ranks."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the cores: [p, q]."""
        return self.left.shape[1], self.right.shape[0]

    def core(self, number: int) -> Tensor:
        """The core of the change of the adapter with this number: shape [p, q], float32 at least."""
        b, a = self._factors[number]
        return (self.left.T @ b) @ (a @ self.right.T)

    def truncated(self, core: Tensor, rank: int) -> LowRank:
        """The change U C Vᵀ of a core, or the nearest one of a rank: the bases are orthonormal, so C's tells it.

        Args:
            core: shape [p, q].
            rank: at least 1.
        """
        inner = truncated(core.to(self.left), rank)
        left, right = self.left @ inner.left, inner.right @ self.right
        like = self._like.to(torch.promote_types(self._like.dtype, torch.float32))
        return LowRank(left.to(like), right.to(like), inner.squares, inner.kept)

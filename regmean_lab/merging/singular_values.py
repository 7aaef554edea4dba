"""Singular value decompositions for methods that merge task matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SingularValues:
    """A singular value decomposition ``left @ diag(values) @ right`` without what is zero.

    Attributes:
        left: orthonormal columns, shape [m, r].
        values: descending, shape [r]; r is the numerical rank.
        right: orthonormal rows, shape [r, n].
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def first(self, count: int) -> SingularValues:
        """The ``count`` largest singular values with their vectors (fewer, where the rank is lower)."""
        return SingularValues(self.left[:, :count], self.values[:count], self.right[:count])


def singular_values(matrix: Tensor, rounded_from: Tensor | None = None) -> SingularValues:
    """Singular value decomposition of a matrix ``[m, n]``, of those singular values that are not zero up to rounding.

    The vectors of a zero singular value are arbitrary, so nothing may depend on them.

    Args:
        matrix: what is decomposed.
        rounded_from: a larger matrix from which it was computed, to which its rounding errors are relative.

    Raises:
        ValueError: when the decomposition does not converge.
    """
    left, values, right = _decomposed(matrix)
    size = values[:1] if rounded_from is None else rounded_from.norm()
    smallest = size * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    rank = int((values > smallest).sum())
    return SingularValues(left, values, right).first(rank)


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition in the matrix's dtype.

    LAPACK's divide and conquer fails now and then on a sound float32 matrix; that is then decomposed in float64 on the
    CPU.
    """
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:
        try:
            wide = torch.linalg.svd(matrix.cpu().double(), full_matrices=False)
        except torch.linalg.LinAlgError:
            raise ValueError("its singular value decomposition does not converge") from None
        left, values, right = (part.to(matrix) for part in wide)
    return left, values, right


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    """The matrix ``[m, n]`` with all its singular values that are not zero set to 1.

    For linearly independent columns (or rows) these are the nearest orthonormal ones in the Frobenius norm: the
    orthogonal Procrustes problem (Schönemann, Psychometrika 31, 1966).

    Raises:
        ValueError: when the singular value decomposition does not converge.
    """
    parts = singular_values(matrix)
    return parts.left @ parts.right

"""Iso-C: isotropic merging in the common subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from regmean_lab.merging.base import register_method
from regmean_lab.merging.singular_values import singular_values
from regmean_lab.merging.task_vectors import MatrixMethod, weighted_sum


@register_method("iso_c")
@dataclass
class IsotropicCommon(MatrixMethod):
    """The summed task vectors of each linear layer with all singular values made equal; the mean for all else.

    W = W₀ + α σ̄ U Vᵀ for every linear layer, the mean for all else (Marczak et al., ICML 2025, Iso-C).

    U Σ Vᵀ is the singular value decomposition of the sum of the members' task matrices and σ̄ the mean of its singular
    values: all directions get the same weight. Directions whose singular value is zero up to rounding are left out.

    Attributes:
        scaling: α; the published experiments choose it on held-out data.
    """

    def merge_matrices(self, matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The sum of the task matrices with a flat spectrum."""
        parts = singular_values(weighted_sum(matrices, weights))
        if len(parts.values) == 0:
            return matrices[0] * 0
        return parts.left @ parts.right * parts.values.mean()

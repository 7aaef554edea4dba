"""Iso-CTS: isotropic merging in common and task-specific subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.singular_values import nearest_orthonormal, singular_values
from regmean_lab.merging.task_vectors import MatrixMethod, weighted_sum
from regmean_lab.utils.checks import fraction


@register_method("iso_cts")
@dataclass
class IsotropicCommonAndSpecific(MatrixMethod):
    """Iso-C with the weakest common directions replaced by each member's own (Marczak et al., ICML 2025, Iso-CTS).

    Of the r directions of a linear layer, k come from the sum of the task matrices (its largest singular values) and
    (r − k)/n from each of the n members: the largest singular values of its task matrix outside of the common left
    directions. All of them side by side are made orthonormal, and all get the mean of their singular values:
    W = W₀ + α σ̄ U⊥ V⊥ᵀ. All other parameters are averaged.

    Attributes:
        common_fraction: k / r, rounded so that members have equally many directions.
        scaling: α; the published experiments choose it on held-out data.
    """

    common_fraction: float = 0.8

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("common_fraction", self.common_fraction, found)
        return found

    def merge_matrices(self, matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Common and task-specific directions with a flat spectrum."""
        size, members = min(matrices[0].shape), len(matrices)
        own = min(round((size - int(size * self.common_fraction)) / members), size // members)
        common = singular_values(weighted_sum(matrices, weights)).first(size - own * members)
        parts = [common]
        for matrix, weight in zip(matrices, weights, strict=True):
            specific = matrix - common.left @ (common.left.T @ matrix)
            if own and weight > 0:
                parts.append(singular_values(specific * weight, matrix * weight).first(own))
        values = torch.cat([part.values for part in parts])
        if len(values) == 0:
            return torch.zeros_like(matrices[0])
        left = nearest_orthonormal(torch.cat([part.left for part in parts], 1))
        right = nearest_orthonormal(torch.cat([part.right for part in parts], 0))
        return left @ right * values.mean()

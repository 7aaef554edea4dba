"""TSV-Merge: task singular vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from regmean_lab.merging.base import register_method
from regmean_lab.merging.singular_values import nearest_orthonormal, singular_values
from regmean_lab.merging.task_vectors import MatrixMethod


@register_method("tsv")
@dataclass
class TaskSingularVectors(MatrixMethod):
    """Task vectors of linear layers with the members' singular vectors jointly orthonormalised; the mean for all else.

    W = W₀ + α U⊥ Σ V⊥ᵀ for every linear layer, the mean for all else (Gargiulo et al., CVPR 2025, TSV-Merge).

    Of each of the n members' task matrices the 1/n largest singular values are kept. U and V hold the singular vectors
    of all members side by side, Σ their singular values; U⊥ and V⊥ are the orthonormal matrices nearest to U and V,
    which takes the members' interference out. With coefficients cᵢ a member's singular values count n cᵢ times.

    Attributes:
        scaling: α.
    """

    def merge_matrices(self, matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The sum of the members' truncated task matrices, with their singular vectors made orthonormal."""
        count = min(matrices[0].shape) // len(matrices)
        parts = [singular_values(matrix).first(count) for matrix in matrices]
        values = torch.cat([part.values * weight for part, weight in zip(parts, weights, strict=True)])
        if len(values) == 0:
            return torch.zeros_like(matrices[0])
        left = nearest_orthonormal(torch.cat([part.left for part in parts], 1))
        right = nearest_orthonormal(torch.cat([part.right for part in parts], 0))
        return left * values @ right

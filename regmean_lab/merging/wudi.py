"""WUDI-Merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.linear_algebra import inner_products
from regmean_lab.merging.task_vectors import MatrixMethod, weighted_sum
from regmean_lab.utils.checks import positive


@register_method("wudi")
@dataclass
class Wudi(MatrixMethod):
    """The change of each linear layer that interferes least with the members' changes; the mean for all else.

    For every linear layer the τ that minimises Σ ‖(τ − τᵢ) τᵢᵀ‖² / ‖τᵢ‖², the mean for all else.

    The rows of a task matrix τᵢ lie, nearly, in the space of the layer's inputs: so the merged layer computes on those
    inputs what the member computes (Cheng et al., ICML 2025). As published, Adam takes a number of steps of a given
    size from the sum of the task matrices, which is not the minimum itself. A member whose task matrix is zero has no
    part in the loss. With coefficients cᵢ each of the n terms of the loss and of the sum counts n cᵢ times.

    Attributes:
        steps: number of steps.
        learning_rate: size of a step: roughly how far each element moves in one.
        scaling: factor on τ; published without.
    """

    steps: int = 300
    learning_rate: float = 1e-5

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if self.steps < 0:
            found.append(f"steps: expected at least 0, got {self.steps}")
        positive("learning_rate", self.learning_rate, found)
        return found

    def merge_matrices(self, matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """A task matrix that does on each member's inputs nearly what the member's own does."""
        size = matrices[0].shape[1]
        # The gradient of the loss is 2 (τ A − B) with A = Σ τᵢᵀ τᵢ / ‖τᵢ‖² and B = Σ τᵢ τᵢᵀ τᵢ / ‖τᵢ‖².
        inputs, target = matrices[0].new_zeros(size, size), torch.zeros_like(matrices[0])
        for matrix, weight in zip(matrices, weights, strict=True):
            square = float(inner_products([matrix]))
            if square > 0:
                own = matrix.T @ matrix * (weight / square)
                inputs += own
                target += matrix @ own
        merged = weighted_sum(matrices, weights)
        optimizer = torch.optim.Adam([merged], lr=self.learning_rate)
        for _ in range(self.steps):
            merged.grad = (merged @ inputs - target).mul_(2)
            optimizer.step()
        return merged

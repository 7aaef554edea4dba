"""ACE-Merging: adaptive covariance estimation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.linear_algebra import solve_device
from regmean_lab.merging.singular_values import singular_values
from regmean_lab.merging.task_vectors import MatrixMethod, weighted_sum
from regmean_lab.utils.checks import fraction, positive

TINY = 1e-12
"""Added to squared norms before they are divided by, or their logarithm is taken, as the authors' program does."""


@register_method("ace")
@dataclass
class Ace(MatrixMethod):
    """As ACTMat, with centred rows, a common prior, and scales that adapt to how much members differ; the mean else.

    W = W₀ + (Σ D̃ᵢ Sᵢ) (Σ Sᵢ + 1 cᵀ)⁻¹ for every linear layer, the mean for all else (Xu et al., CVPR 2026, ACE).

    Here W is [out, in], D̃ᵢ = Dᵢ − 1 μᵢᵀ a member's task matrix without the mean of its rows, Σ̂ᵢ = D̃ᵢᵀD̃ᵢ the estimate of
    its inputs' covariance, and γ = Var(log ‖Dᵢ‖²) / Mean(log ‖Dᵢ‖²)² tells how much the sizes of changes differ between
    members. Sᵢ = Σ̂ᵢ + ε I; where γ exceeds ``heterogeneity``, Sᵢ = (Σ̂ᵢ + ε I) / tr Σ̂ᵢ. cᵀ is the mean of the rows of
    the sum of all Σ̂ᵢ, scaled alike (there also divided by the mean of ‖Dᵢ‖²). Where γ exceeds ``heterogeneity`` the
    spectrum is refined: with Δ the change so far plus Σ Dᵢ (Σ̂ᵢ / tr Σ̂ᵢ − S̄), S̄ the mean of all Sᵢ, and U Σ Vᵀ its
    singular value decomposition, σ̄ Uₖ Vₖᵀ is added: the k largest singular values, all made equal to their mean.
    (Equations 5 to 19; the variance and its logarithms as in the authors' program.) With coefficients cᵢ a member
    counts n cᵢ times in each sum.

    Attributes:
        heterogeneity: threshold of γ.
        ridge: ε.
        refined: k as a share of all singular values.
    """

    heterogeneity: float = 0.3
    ridge: float = 0.01
    refined: float = 0.3

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        positive("heterogeneity", self.heterogeneity, found)
        positive("ridge", self.ridge, found)
        fraction("refined", self.refined, found)
        return found

    def merge_matrices(self, matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """The change of a layer, from the members' changes."""
        wide = [matrix.to(solve_device(matrix.device), torch.float64) for matrix in matrices]
        sizes = torch.stack([matrix.square().sum() for matrix in wide])
        differ = float(heterogeneity(sizes)) > self.heterogeneity
        centred = [matrix - matrix.mean(0, keepdim=True) for matrix in wide]
        estimates = [matrix.T @ matrix for matrix in centred]
        scales = [1 / (float(estimate.trace()) + TINY) if differ else 1.0 for estimate in estimates]
        estimates = [estimate * scale for estimate, scale in zip(estimates, scales, strict=True)]
        identity = torch.eye(len(estimates[0]), dtype=torch.float64, device=wide[0].device)
        regular = [estimate + self.ridge * scale * identity for estimate, scale in zip(estimates, scales, strict=True)]
        prior = weighted_sum(estimates, weights).mean(0, keepdim=True)
        if differ:
            prior = prior / (float(sizes.mean()) + TINY)
        left = weighted_sum(regular, weights) + prior  # the same row everywhere: not symmetric
        right = weighted_sum([part @ own for part, own in zip(centred, regular, strict=True)], weights)
        try:
            merged = torch.linalg.solve(left.T, right.T).T
        except torch.linalg.LinAlgError:
            raise ValueError("the sum of the estimated covariances cannot be solved") from None
        if differ:
            merged = merged + self._refinement(merged, wide, estimates, regular, weights)
        return merged.to(matrices[0])

    def _refinement(
        self,
        merged: Tensor,
        matrices: Sequence[Tensor],
        estimates: Sequence[Tensor],
        regular: Sequence[Tensor],
        weights: Sequence[float],
    ) -> Tensor:
        """The leading directions of the change and of what the mean structure has lost, all of one size."""
        mean = weighted_sum(regular, weights) / len(regular)
        lost = [matrix @ (own - mean) for matrix, own in zip(matrices, estimates, strict=True)]
        kept = int(min(merged.shape) * self.refined)
        parts = singular_values(merged + weighted_sum(lost, weights)).first(kept)
        if len(parts.values) == 0:
            return torch.zeros_like(merged)
        return parts.left @ parts.right * (parts.values.sum() / kept)


def heterogeneity(sizes: Tensor) -> Tensor:
    """γ = Var(log s) / Mean(log s)² of the members' squared norms s [members]; the variance of a sample."""
    logs = (sizes + TINY).log()
    return logs.var() / (logs.mean().square() + TINY)

"""Singular value calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.followed_by import Merged, Step, register_step
from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.singular_values import singular_values
from regmean_lab.utils.checks import positive


@register_step("svc")
@dataclass
class SingularValueCalibration(Step):
    """Of each linear layer's merged change U Σ Vᵀ the singular values that members share are made smaller.

    σᵣ becomes σᵣ n / Σᵢ max(α, sᵣᵢ) with sᵣᵢ = ⟨aᵣ, aᵣᵢ⟩ / ‖aᵣᵢ‖², aᵣ = uᵣᵀ(W − W₀) and aᵣᵢ = uᵣᵀ(Wᵢ − W₀), weights as
    [out, in]: where sᵣᵢ > 1 the merge does more in the direction uᵣ than the member, as a sum does in directions that
    members share (Li et al., ICML 2026, arXiv 2602.05536, algorithm 1). A member that does nothing in a direction has
    sᵣᵢ = 0. With coefficients cᵢ a member counts n cᵢ times. A mean of equal members has all sᵣᵢ = 1, and stays.

    Attributes:
        alpha: α; below 1, what the merge has weakened grows by up to 1/α.
    """

    alpha: float = 1.0

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if not found:
            positive("alpha", self.alpha, found)
        return found

    def apply(self, part: Merged) -> Tensor:
        """A linear layer's weight with other singular values; any other parameter as it is."""
        if part.transposed is None:
            return part.value

        def oriented(tensor: Tensor) -> Tensor:
            return tensor.T if part.transposed else tensor

        try:
            change = singular_values(oriented(part.value - part.base))
        except ValueError as error:
            raise MergeError(f"{part.name}: its change cannot be calibrated: {error}") from None
        own = change.values.unsqueeze(1) * change.right
        sizes = torch.zeros_like(change.values)
        for number in range(part.members):
            response = change.left.T @ oriented(part.member(number) - part.base)
            square = response.square().sum(1)
            share = torch.where(square > 0, (own * response).sum(1) / square, 0)
            sizes.add_(share.clamp(min=self.alpha), alpha=part.weights[number])
        factors = sum(part.weights) / sizes
        return part.base + oriented(change.left * (change.values * factors) @ change.right)

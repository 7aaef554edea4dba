"""Model Breadcrumbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import Parameter, register_method
from regmean_lab.merging.task_vectors import ElementwiseMethod
from regmean_lab.utils.checks import fraction


@register_method("breadcrumbs")
@dataclass
class Breadcrumbs(ElementwiseMethod):
    """The pretrained model plus the task vectors without their smallest and largest elements.

    θ = θ₀ + α Σ mᵢ ⊙ τᵢ, where masks mᵢ hide the smallest and the largest changes.

    Davari and Belilovsky, 2023, arXiv 2312.06795; masks are made for each parameter on its own.

    Attributes:
        small: share β of each parameter's elements, the smallest by magnitude, that is dropped.
        large: share of each parameter's elements, the largest by magnitude, that is dropped: outliers.
        density: share of each parameter's elements that is kept, in place of small: those below the largest.
        elect_signs: of each element, only the values that have the elected sign count, as in TIES.
        scaling: α.
    """

    scaling: float = 0.2
    small: float = 0.85
    large: float = 0.006
    density: float | None = None
    elect_signs: bool = False

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        wrong = len(found)
        fraction("small", self.small, found, one=False)
        fraction("large", self.large, found, one=False)
        if self.density is not None:
            fraction("density", self.density, found, zero=False)
        elif len(found) == wrong and self.small + self.large >= 1:
            found.append(f"large: expected less than 1 - small, got small={self.small} and large={self.large}")
        return found

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The sum of the masked task vectors."""
        masked = [self._masked(parameter, number, vector) for number, vector in enumerate(vectors)]
        return self.combined(masked, parameter, elect=self.elect_signs, mean=False)

    def _masked(self, parameter: Parameter, member: int, vector: Tensor) -> Tensor:
        large = parameter.setting(member, "large", self.large)
        density = parameter.setting(member, "density", -1 if self.density is None else self.density)
        if density == 1:
            return vector
        order = vector.abs().flatten().argsort(stable=True)
        count = len(order)
        if density < 0:
            kept = order[int(self.small * count) : count - int(large * count)]
        else:  # where both cannot be had, outliers stay
            wanted = int(density * count)
            start = max(0, count - wanted - int(large * count))
            kept = order[start : start + wanted]
        masked = torch.zeros_like(vector).flatten()
        masked[kept] = vector.flatten()[kept]
        return masked.reshape(vector.shape)

"""Geometric means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regmean_lab.merging import MergeMethod, Parameter, register_method
from regmean_lab.utils.checks import positive


@register_method("tempered")
@dataclass
class Tempered(MergeMethod):
    """The geometric mean of each element's magnitudes, with the sign of the members' mean.

    Attributes:
        floor: magnitudes below it count as it.
    """

    elementwise: ClassVar[bool] = True
    floor: float = 1e-8

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        found = super().problems()
        positive("floor", self.floor, found)
        return found

    def merge(self, parameter: Parameter) -> tuple[Tensor, None]:
        """One parameter: sign(Σ cᵢ wᵢ) · exp(Σ cᵢ log max(|wᵢ|, floor))."""
        logarithms = [tensor.abs().clamp(min=self.floor).log() for tensor in parameter.tensors]
        mean = sum(weight * value for weight, value in zip(parameter.coefficients, logarithms, strict=True))
        return parameter.mean().sign() * torch.as_tensor(mean).exp(), None

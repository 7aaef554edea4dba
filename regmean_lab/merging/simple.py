"""Simple averaging of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from regmean_lab.merging.base import LayerDiagnostics, MergeMethod, Parameter, register_method


@register_method("simple")
@dataclass
class Simple(MergeMethod):
    """The mean of the members' parameters, or with ``coefficients`` a weighted one.

    Wortsman et al., ICML 2022; Jin et al., ICLR 2023, section 2.
    """

    elementwise: ClassVar[bool] = True

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Mean of the members' tensors, weighted by the coefficients."""
        return parameter.mean(), None

"""Simple averaging of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from regmean_lab.merging.base import register_method
from regmean_lab.merging.free_weights import FreeWeights, shares
from regmean_lab.merging.parameters import LayerDiagnostics, Parameter
from regmean_lab.merging.task_vectors import weighted_sum


@register_method("simple")
@dataclass
class Simple(FreeWeights):
    """The mean of the members' parameters, optionally weighted by ``coefficients``.

    Wortsman et al., ICML 2022; Jin et al., ICLR 2023, section 2.
    """

    elementwise: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Mean of the members' tensors, weighted by the coefficients or weights; with ``normalize=false`` their sum."""
        if parameter.factors is None:
            return parameter.mean(), None
        if self.normalize is False:
            return weighted_sum(parameter.tensors, parameter.factors), None
        return replace(parameter, coefficients=shares(parameter.factors)).mean(), None

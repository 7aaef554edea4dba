"""ACTMat: regression means with Gram matrices that are estimated from the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.parameters import LayerDiagnostics, Parameter
from regmean_lab.merging.regmean import RegMean


@register_method("actmat")
@dataclass
class ActMat(MergeMethod):
    """As RegMean, with each layer's Gram matrix estimated from what fine-tuning changed; the mean for all else.

    W = (Σ Cᵢ)⁺ Σ Cᵢ Wᵢ with Cᵢ = DᵢᵀDᵢ for every linear layer, the mean for all else (Hameed et al., 2026, ACTMat).

    Dᵢ = Wᵢ − W₀ is a member's task matrix as [out, in], so that Cᵢ is [in, in] as RegMean's Gram matrix is; Wᵢ is [in,
    out]. Neither data nor statistics are needed. Directions of the input in which no member has changed a layer keep
    the pretrained weight, which there is all members'. A layer that the pretrained model does not have, such as a new
    head, is averaged.
    """

    one_at_a_time: ClassVar[bool] = True
    by_layer: ClassVar[bool] = True
    solves_experts: ClassVar[bool] = True

    @property
    def needs_base(self) -> bool:
        """The model that the members were trained from."""
        return True

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Regression mean of a linear layer's weight; mean of any other parameter."""
        return RegMean(off_diagonal=1.0, gram_from="estimated").merge(parameter)

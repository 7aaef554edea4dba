"""A merge drawn back towards the mean of the members' weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.followed_by import Merged, Step, register_step
from regmean_lab.utils.checks import fraction


@register_step("towards_mean")
@dataclass
class TowardsMean(Step):
    """(1 - s) times the merge plus s times the mean of the members.

    Interpolation of weights as in WiSE-FT (Wortsman et al., CVPR 2022, arXiv 2109.01903), with the mean in place of the
    pretrained model. Needs no base model.

    Attributes:
        share: s, from 0 (the merge) to 1 (``method=simple``).
    """

    share: float = 0.5

    needs_base = False

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if not found:
            fraction("share", self.share, found)
        return found

    def apply(self, part: Merged) -> Tensor:
        """Any parameter."""
        return torch.lerp(part.value, part.mean(), self.share)

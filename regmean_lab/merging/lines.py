"""LiNeS: a merge's change scaled by depth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regmean_lab.merging.followed_by import Merged, Step, register_step


@register_step("lines")
@dataclass
class LayerIncreasingScaling(Step):
    """The merged change grows with depth: θ₀ + (α + β d) (θ − θ₀), d from 0 in the first block to 1 in the last.

    Shallow layers stay near the pretrained model, whose features are general, and deep ones keep what is particular to
    the tasks (Wang et al., ICLR 2025, arXiv 2410.17146, LiNeS). Parameters outside of blocks have the factor α, as in
    the authors' program. The paper chooses β on held-out data.

    Attributes:
        alpha: α, the factor in the first block.
        beta: β, by how much it is larger in the last block.
    """

    alpha: float = 0.5
    beta: float = 0.5

    def apply(self, part: Merged) -> Tensor:
        """Any parameter that has a base."""
        return part.base + (self.alpha + self.beta * part.depth) * (part.value - part.base)

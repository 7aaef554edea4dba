"""What each member keeps beside the merge: a low-rank part of what the merge has lost of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.followed_by import MEMBERS_OWN, Merged, Step, named_steps, register_step
from regmean_lab.merging.low_rank import LowRank, truncated
from regmean_lab.merging.parameters import Layout, LinearLayer, MergeError
from regmean_lab.utils.checks import at_least_one
from regmean_lab.utils.quantities import counted


@register_step(MEMBERS_OWN)
@dataclass
class Residual(Step):
    """The merge for all, and for each member an adapter of rank r to it: W + trunc_r(Wᵢ - W) in each linear layer.

    The truncated singular value decomposition is the nearest matrix of its rank (Eckart and Young, Psychometrika 1,
    1936). A merge and a compressed part of each task's own is what Twin-Merging keeps (Lu et al., NeurIPS 2024, arXiv
    2406.15479), which weights them by a router; here each member has its own. Heads, embeddings, layer norms, biases
    and fused experts are those of the merge.

    Attributes:
        rank: r, at least 1.
    """

    rank: int = 8

    needs_base = False

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if not found:
            at_least_one("rank", self.rank, found)
        return found

    def apply(self, part: Merged) -> Tensor:
        """The merge itself stays as it is."""
        return part.value

    def layers(self, names: Collection[str], layout: Layout, head: Collection[str]) -> dict[str, LinearLayer]:
        """The linear layers that have residuals, by the name of their weight.

        Args:
            names: the parameters that are merged.
            layout: which of them are weights of linear layers.
            head: the parameters of the head.
        """
        return {name: layer for name, layer in layout.linear.items() if name in names and name not in head}

    def note(self, shapes: Sequence[tuple[int, ...]]) -> str:
        """What a user should know: how much each member keeps.

        Args:
            shapes: of the weights that have residuals.
        """
        numbers = sum(min(self.rank, *shape) * sum(shape) for shape in shapes)
        return (
            f"each member keeps a residual of rank {self.rank} of {len(shapes)} linear layers, at most "
            f"{counted(numbers, 'number')}"
        )

    def of(self, layer: LinearLayer, merged: Tensor, own: Tensor) -> LowRank:
        """What a member keeps of a layer: factors whose product is near its difference from the merge, as [out, in].

        Args:
            layer: the layer.
            merged: its merged weight.
            own: the member's weight, of the same shape, dtype and device.

        Raises:
            MergeError: when the decomposition does not converge.
        """
        difference = own - merged
        try:
            return truncated(difference.T if layer.transposed else difference, self.rank)
        except ValueError as error:
            raise MergeError(f"{layer.name}: what a member keeps of its own cannot be decomposed: {error}") from None

    def added(self, layer: LinearLayer, merged: Tensor, own: Tensor) -> Tensor:
        """A layer's merged weight with what a member keeps of it, float32 at least, on the device of ``own``.

        Args:
            layer: the layer.
            merged: its merged weight.
            own: the member's weight, of the same shape.
        """
        merged = merged.to(own.device, torch.promote_types(merged.dtype, torch.float32))
        part = self.of(layer, merged, own.to(merged))
        product = part.left @ part.right
        return merged + (product.T if layer.transposed else product)


def residual_of(followed_by: Any) -> Residual | None:
    """The residuals that a setting ``followed_by`` asks for, if it does.

    Args:
        followed_by: the setting, without :func:`regmean_lab.merging.followed_by.step_problems`.
    """
    settings = [own for name, own in named_steps(followed_by) if name == MEMBERS_OWN]
    return Residual(**settings[-1]) if settings else None

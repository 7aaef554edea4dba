"""Optimal-transport fusion of the feed-forward blocks of two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.parameters import (
    FeedForward,
    GramSource,
    LayerDiagnostics,
    Layout,
    MergeError,
    MergeMember,
    Parameter,
)
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple

AFTERWARDS = ("simple", "regmean")


@register_method("optimal_transport")
@dataclass
class OptimalTransport(MergeMethod):
    """Align the neurons of the first model's feed-forward blocks with the second's, then merge (Singh and Jaggi, 2020).

    For each block the exact optimal transport between the neurons of the two models is computed, with uniform marginals
    and the Euclidean distance of the neurons' incoming weights, scaled to unit length, as cost. It permutes the first
    model's neurons, which leaves its function as it is; all else is merged as it stands.

    Attributes:
        then: how the aligned models are merged: ``simple`` or ``regmean``.
        off_diagonal: for ``regmean``, its factor on the off-diagonal entries of Gram matrices.
    """

    whole_model: ClassVar[tuple[str, ...]] = ("off_diagonal",)

    then: str = "simple"
    off_diagonal: float = 0.9
    _method: MergeMethod = field(default_factory=Simple, init=False, repr=False)
    _roles: dict[str, tuple[FeedForward, str]] = field(default_factory=dict, init=False, repr=False)
    _last: tuple[FeedForward, Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def statistics(self) -> tuple[str, ...]:
        """What merging the aligned models needs."""
        return ("gram",) if self.then == "regmean" else ()

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if self.then not in AFTERWARDS:
            found.append(f"then: expected one of {', '.join(AFTERWARDS)}, got {self.then!r}")
        return found + RegMean(off_diagonal=self.off_diagonal).problems()

    def count_problems(self, members: int) -> list[str]:
        """Two models are aligned, neither more nor fewer."""
        return [] if members == 2 else [f"members: optimal_transport merges exactly two, got {members}"]

    def prepare(
        self,
        members: Sequence[MergeMember],
        names: Sequence[str],
        layout: Layout,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Find the feed-forward blocks, all of whose parameters must be merged."""
        self._method = RegMean(off_diagonal=self.off_diagonal) if self.then == "regmean" else Simple()
        self._last = None
        merged = set(names)
        self._roles = {}
        for block in layout.feed_forward:
            weights = {f"{layer.name}.weight" for layer in (*block.first, block.second)}
            if weights <= merged:
                for layer in block.first:
                    self._roles[f"{layer.name}.weight"] = (block, "columns" if layer.transposed else "rows")
                    self._roles[f"{layer.name}.bias"] = (block, "rows")
                second = block.second
                self._roles[f"{second.name}.weight"] = (block, "rows" if second.transposed else "columns")
        if not self._roles:
            raise MergeError("optimal_transport: the model has no feed-forward block (linear layers h → m → h, m > h)")

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Align the first member's tensor, if it belongs to a feed-forward block, and merge."""
        if parameter.name in self._roles:
            block, role = self._roles[parameter.name]
            first, second = parameter.tensors
            transport = self._transport(block, parameter.members, first.device).to(first.dtype)
            aligned = transport.T @ first if role == "rows" else first @ transport
            members = parameter.members
            if parameter.layer == block.second and members[0].gram is not None:
                members = [replace(members[0], gram=_Transported(members[0].gram, transport)), members[1]]
            parameter = replace(parameter, tensors=[aligned, second], members=members)
        return self._method.merge(parameter)

    def _transport(self, block: FeedForward, members: Sequence[MergeMember], device: torch.device) -> Tensor:
        """Transport plan times the number of neurons, shape [neurons of the first, neurons of the second]."""
        if self._last is None or self._last[0] != block:
            self._last = (block, transport_plan(*(_neurons(member, block) for member in members)).to(device))
        return self._last[1]


def transport_plan(first: Tensor, second: Tensor) -> Tensor:
    """Exact optimal transport between two models' neurons.

    Args:
        first: incoming weights of each neuron of the first model, shape [neurons, in].
        second: the same of the second.

    Returns:
        The plan with uniform marginals, times the number of neurons: a permutation matrix, shape [neurons, neurons],
        float64; ``plan.T @ first`` is the first model's weights in the second's order.
    """
    import ot  # POT: only this method needs it

    one, other = (torch.nn.functional.normalize(weights.double(), dim=1) for weights in (first, second))
    cost = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
    # The solver warns at a set number of iterations, which a model's blocks need more than.
    plan = ot.emd([], [], cost.numpy(), numItermax=10_000_000)
    return torch.from_numpy(plan) * len(plan)


@dataclass(frozen=True)
class _Transported:
    """Gram matrices of the aligned model: the inputs of the block's second layer are its neurons."""

    source: GramSource
    transport: Tensor

    def matrix(self, layer: str) -> Tensor:
        transport, matrix = self.transport, self.source.matrix(layer)
        return (transport.T @ matrix.to(transport) @ transport).to(matrix.dtype)


def _neurons(member: MergeMember, block: FeedForward) -> Tensor:
    parts = []
    for layer in block.first:
        weight = member.weights[f"{layer.name}.weight"].detach().cpu().float()
        parts.append(weight.T if layer.transposed else weight)
    return torch.cat(parts, dim=1)

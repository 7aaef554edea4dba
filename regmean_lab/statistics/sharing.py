"""Layers that are fed the same inputs, and the sum of the products of those inputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .products import add_gram_


@dataclass(eq=False)
class _Input:
    """One input of the current batch.

    The tensor is known by a weak reference: once it is gone, no later tensor at its address is mistaken for it.

    Attributes:
        tensor: the input itself.
        version: how often it had been changed in place; None under inference mode, which does not count.
        mask: the mask that was applied to it.
        rows: its rows that count ``[rows, in]``, until they are added to the group's sum.
    """

    tensor: weakref.ref[Tensor]
    version: int | None
    mask: Tensor | None
    rows: Tensor | None

    def is_same(self, inputs: Tensor, mask: Tensor | None) -> bool:
        """Whether ``inputs`` with ``mask`` is this very input, unchanged."""
        return self.tensor() is inputs and self.mask is mask and self.version == _version(inputs)


def _version(tensor: Tensor) -> int | None:
    """How often ``tensor`` was changed in place, where that is counted."""
    return None if tensor.is_inference() else tensor._version


class InputGroup:
    """Layers that have received the same inputs so far, and one sum of products for all of them.

    In a batch, each member goes through the group's list of inputs in order. An input is added to the sum when all
    members have received it; until then its rows are held. A member that receives something else, or fewer inputs
    than the others, is split off with a copy of the sum (all of which it has seen) and adds the held inputs that it
    has seen. So every sum is exactly what the layer alone would have had, added up in the same order.

    Attributes:
        total: the sum of ``rowsᵀ rows`` ``[in, in]``, on and above the diagonal; None before the first input.
        rows: number of rows in the sum.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self.total: Tensor | None = None
        self.rows = 0
        self._inputs: list[_Input] = []
        self._added = 0
        # How many of the batch's inputs each member has received.
        self._received = dict.fromkeys(members, 0)

    @property
    def members(self) -> list[str]:
        """The layers of the group."""
        return list(self._received)

    def join(self, layer: str, inputs: Tensor, mask: Tensor | None) -> bool:
        """Make ``layer`` a member if its first input ever is the only one that the group ever had; tells whether."""
        if len(self._inputs) != 1 or not self._inputs[0].is_same(inputs, mask):
            return False
        self._received[layer] = 1
        return True

    def receive(self, layer: str, inputs: Tensor, mask: Tensor | None, select: Callable[[], Tensor]) -> InputGroup:
        """Take up the next input of a member.

        Args:
            layer: the member.
            inputs: its input ``[..., in]``.
            mask: the mask that applies to it.
            select: returns the rows ``[rows, in]`` that count, in the dtype of the sum; called only if no other
                member has brought this input.

        Returns:
            The group of the layer from now on: this one, or a new one if it was split off.
        """
        group, position = self, self._received[layer]
        if position < len(self._inputs) and not self._inputs[position].is_same(inputs, mask):
            group = self.split({layer})
        if position == len(group._inputs):
            rows = select()
            if len(group._received) > 1 and rows.data_ptr() == inputs.data_ptr():
                rows = rows.clone()  # it is held, and the model may change its tensor in place meanwhile
            group._inputs.append(_Input(weakref.ref(inputs), _version(inputs), mask, rows))
        group._received[layer] += 1
        group._add_complete()
        return group

    def split(self, layers: set[str]) -> InputGroup:
        """Split off members that have all received the same number of inputs in this batch, but not the most of all.

        What they have received and the sum does not hold yet is held for them too.
        """
        part = InputGroup(layers)
        part.total = None if self.total is None else self.total.clone()
        part.rows = self.rows
        part._added = self._added
        for layer in layers:
            part._received[layer] = self._received.pop(layer)
        # Copies, because either group lets go of an input's rows when it has added them.
        part._inputs = [replace(entry) for entry in self._inputs[: min(part._received.values())]]
        self._add_complete()
        return part

    def end_batch(self) -> list[InputGroup]:
        """End the batch; members that received fewer inputs than others are split off into the groups returned."""
        counts = sorted(set(self._received.values()))
        parts = [
            self.split({layer for layer, received in self._received.items() if received == count})
            for count in counts[:-1]
        ]
        for group in (self, *parts):
            group._inputs.clear()
            group._added = 0
            group._received = dict.fromkeys(group._received, 0)
        return parts

    def _add_complete(self) -> None:
        """Add the inputs that all members have received."""
        complete = min(self._received.values())
        for entry in self._inputs[self._added : complete]:
            rows = entry.rows
            assert rows is not None
            if self.total is None:
                self.total = torch.zeros(rows.shape[1], rows.shape[1], dtype=rows.dtype, device=rows.device)
            add_gram_(self.total, rows)
            self.rows += rows.shape[0]
            entry.rows = None
        self._added = max(self._added, complete)

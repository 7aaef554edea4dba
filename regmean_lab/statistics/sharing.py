"""Layers that are fed the same inputs, and the sum of the products of those inputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .products import add_gram_, packed_rows


@dataclass(eq=False)
class _Input:
    """One input of the current batch.

    The tensor is known by a weak reference: once it is gone, no later tensor at its address is mistaken for it.

    Attributes:
        tensor: the input itself.
        version: how often it had been changed in place; None under inference mode, which does not count.
        mask: the mask that was applied to it.
        rows: its rows that count ``[rows, in]``, until all members have received it.
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


def common_groups(layers: Iterable[str], leaders: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Groups of layers that share a leader in each mapping; those that a mapping lacks share their absence.

    Args:
        layers: the layers, in the order in which they come in the groups.
        leaders: from layers to what is the same for those that share.
    """
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for layer in layers:
        groups.setdefault(tuple(mapping.get(layer) for mapping in leaders), []).append(layer)
    return list(groups.values())


class InputGroup:
    """Layers that have received the same inputs so far, and one sum of products for all of them.

    In a batch, each member goes through the group's list of inputs in order. An input counts when all members have
    received it; until then its rows are held. A member that receives something else, or fewer inputs than the others,
    is split off with a copy of the sum (all of which it has seen) and counts the held inputs that it has seen. So every
    sum is exactly what the layer alone would have had, added up in the same order.

    Rows that count are packed until there are enough of them for an efficient product.

    Args:
        members: the layers.
        device: where the inputs are.
        dtype: of the sum.

    Attributes:
        device: where the inputs are.
        rows: number of rows that count.
    """

    def __init__(self, members: Iterable[str], device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.rows = 0
        self._dtype = dtype
        self._total: Tensor | None = None
        self._packed: list[Tensor] = []
        self._inputs: list[_Input] = []
        self._counted = 0
        # How many of the batch's inputs each member has received.
        self._received = dict.fromkeys(members, 0)

    @classmethod
    def with_total(cls, members: Iterable[str], total: Tensor, rows: int) -> InputGroup:
        """A group whose sum ``[in, in]`` over ``rows`` rows is known."""
        group = cls(members, total.device, total.dtype)
        group._total, group.rows = total, rows
        return group

    @property
    def width(self) -> int:
        """The width of the sum; 0 if there was no input yet."""
        if self._total is not None:
            return self._total.shape[1]
        return self._packed[0].shape[1] if self._packed else 0

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
            select: returns the rows ``[rows, in]`` that count, in the dtype that is multiplied; called only if no
                other member has brought this input.

        Returns:
            The group of the layer from now on: this one, or a new one if it was split off.
        """
        group, position = self, self._received[layer]
        if position < len(self._inputs) and not self._inputs[position].is_same(inputs, mask):
            group = self.split({layer})
        if position == len(group._inputs):
            rows = select()
            multiplied_now = len(group._received) == 1 and group._is_enough(rows)
            if not multiplied_now and rows.data_ptr() == inputs.data_ptr():
                rows = rows.clone()  # it is held, and the model may change its tensor in place meanwhile
            group._inputs.append(_Input(weakref.ref(inputs), _version(inputs), mask, rows))
        group._received[layer] += 1
        group._count_complete()
        return group

    def split(self, layers: set[str]) -> InputGroup:
        """Split off members that have all received the same number of inputs in this batch, but not the most of all.

        What they have received and does not count yet is held for them too.
        """
        part = InputGroup(layers, self.device, self._dtype)
        part._total = None if self._total is None else self._total.clone()
        part._packed = list(self._packed)
        part.rows = self.rows
        part._counted = self._counted
        for layer in layers:
            part._received[layer] = self._received.pop(layer)
        # Copies, because either group lets go of an input's rows when they count.
        part._inputs = [replace(entry) for entry in self._inputs[: min(part._received.values())]]
        self._count_complete()
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
            group._counted = 0
            group._received = dict.fromkeys(group._received, 0)
        return parts

    def total(self) -> Tensor:
        """The sum of ``rowsᵀ rows`` ``[in, in]`` over the rows that count, on and above the diagonal.

        Raises:
            ValueError: if there was no input yet.
        """
        if self._packed:
            self._multiply()
        if self._total is None:
            raise ValueError("no input was received")
        return self._total

    def clear(self) -> None:
        """Let go of the sum."""
        self._total = None

    def _count_complete(self) -> None:
        """Count the inputs that all members have received."""
        complete = min(self._received.values())
        for entry in self._inputs[self._counted : complete]:
            rows = entry.rows
            assert rows is not None
            entry.rows = None
            enough = self._is_enough(rows)
            self._packed.append(rows)
            self.rows += rows.shape[0]
            if enough:
                self._multiply()
        self._counted = max(self._counted, complete)

    def _is_enough(self, rows: Tensor) -> bool:
        """Whether these rows and those packed before are enough for a product."""
        return sum(map(len, self._packed)) + len(rows) >= packed_rows(rows)

    def _multiply(self) -> None:
        """Add the product of the packed rows to the sum."""
        rows = self._packed[0] if len(self._packed) == 1 else torch.cat(self._packed)
        self._packed = []
        if self._total is None:
            self._total = torch.zeros(rows.shape[1], rows.shape[1], dtype=self._dtype, device=rows.device)
        add_gram_(self._total, rows)

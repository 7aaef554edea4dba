"""One parameter of every member, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from torch import Tensor


class MemberTensors(Sequence[Tensor]):
    """One parameter of every member: each but the first is read anew whenever it is asked for, and not kept.

    So one member's tensor beside the first is in memory at a time, however many members there are, for a method that
    goes over them and keeps none.

    Args:
        first: the first member's tensor.
        read: gives the tensor of another member, by its number.
        count: number of members.
    """

    def __init__(self, first: Tensor, read: Callable[[int], Tensor], count: int) -> None:
        self._first, self._read, self._count = first, read, count

    def __len__(self) -> int:
        """Number of members."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Read one member's tensor, or those of several, which are then all in memory."""
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        number = range(self._count)[index]
        return self._first if number == 0 else self._read(number)


def rows_of(tensors: Sequence[Tensor], members: Sequence[int], rows: Tensor) -> Sequence[Tensor]:
    """Some rows of some members' tensors, of one member at a time if the tensors are.

    Args:
        tensors: of all members, shape [rows, …].
        members: numbers of one member or more.
        rows: indices, shape [chosen].
    """
    if not isinstance(tensors, MemberTensors):
        return [tensors[member][rows] for member in members]
    return MemberTensors(tensors[members[0]][rows], lambda number: tensors[members[number]][rows], len(members))

"""A parameter of every member as methods see it: read whole, or some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.finishing import MergedParameter, base_tensor, working_tensor
from regmean_lab.merging.linear_algebra import inner_products
from regmean_lab.merging.member_tensors import MemberTensors
from regmean_lab.merging.parameters import MergeInputs, MergeMember, Parameter, TensorSettings
from regmean_lab.merging.side_by_side import Run, one_by_one
from regmean_lab.merging.weights import StoredWeights, tensor_rows, tensor_shape

BLOCK_ELEMENTS = 1 << 20
"""Most elements, of all members together, of a piece: few enough for what is computed of them to stay in a processor's
cache, and enough for Python to take no part of the time."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Pieces:
    """A parameter whose pieces a method looks at before it merges them.

    Attributes:
        whole: the parameter; its tensors and base are those of the first piece.
        parts: read a piece each.
        run: does tasks, see :mod:`~regmean_lab.merging.side_by_side`.
    """

    whole: Parameter
    parts: Sequence[Callable[[], Parameter]]
    run: Run = one_by_one

    @classmethod
    def of(cls, parameter: Parameter) -> Pieces:
        """A parameter that is all in memory."""
        return cls(parameter, [lambda: parameter])

    def each(self, look: Callable[[Parameter], Found]) -> Iterator[Found]:
        """What a function finds in each piece, in order; several are read and looked at side by side."""
        return self.run(partial(_looked_at, part, look) for part in self.parts)


def _looked_at(part: Callable[[], Parameter], look: Callable[[Parameter], Found]) -> Found:
    return look(part())


def surveyed(method: MergeMethod, parameter: Parameter) -> Parameter:
    """A parameter with what its method must know of the whole of it: as it is told, or found out now."""
    if parameter.known is not None or not method.surveys:
        return parameter
    return replace(parameter, known=method.survey(Pieces.of(parameter)))


def inner_products_of(pieces: Pieces, vectors: Callable[[Parameter], Sequence[Tensor]]) -> Tensor:
    """Inner products of vectors of which a parameter's pieces hold a part each, float64 [vectors, vectors].

    Args:
        pieces: the parameter.
        vectors: the vectors' parts in a piece.
    """
    return torch.stack(list(pieces.each(lambda piece: inner_products(list(vectors(piece)))))).sum(0)


def blocks_of(shape: Sequence[int], count: int) -> list[slice]:
    """Parts of a parameter's rows of which all members' values together have at most ``BLOCK_ELEMENTS`` elements.

    Args:
        shape: the parameter's.
        count: number of members.
    """
    if not shape or math.prod(shape) == 0:
        return []
    rows = max(1, BLOCK_ELEMENTS // (count * math.prod(shape[1:])))
    return [slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


def read_by_rows(members: Iterable[MergeMember]) -> bool:
    """Whether the members' tensors are read when they are asked for, some rows at a time, by several threads."""
    return all(isinstance(member.weights, StoredWeights) and member.weights.concurrent for member in members)


def is_floating(weights: Mapping[str, Tensor], name: str) -> bool:
    """Whether a tensor is one of floating-point numbers; reads one row, where the source can do so."""
    shape = tensor_shape(weights, name)
    return tensor_rows(weights, name, slice(0, 1) if shape and shape[0] else None).is_floating_point()


def read_parameter(
    name: str,
    inputs: MergeInputs,
    block: slice | None = None,
    expert: int | None = None,
    own: TensorSettings | None = None,
    factors: Sequence[float] | None = None,
) -> Parameter:
    """One parameter, a block of its rows, or the layer of one of the experts that it holds.

    Of the members' tensors the first one is read; the others are when they are asked for (`MemberTensors`).

    Args:
        name: the parameter's name.
        inputs: where it is read.
        block: the rows; None for all of them.
        expert: the number of the expert.
        own: how this tensor is merged.
        factors: one a member, in place of the coefficients.

    Raises:
        MergeError: for a NaN or infinity, and a base of another shape.
    """
    members, layout, device = inputs.members, inputs.layout, inputs.device
    rows = slice(expert, expert + 1) if expert is not None else block

    def chosen(weights: Mapping[str, Tensor]) -> Tensor:
        read = tensor_rows(weights, name, rows)
        return read if expert is None else read[0]

    def member_tensor(number: int) -> Tensor:
        return working_tensor(members[number], chosen(members[number].weights), name, device)

    stored = chosen(members[0].weights)
    dtype, first = stored.dtype, working_tensor(members[0], stored, name, device)
    del stored
    start = None
    if dtype.is_floating_point:
        start = base_tensor(inputs.base, name, first if expert is None else first[None], rows)
        start = start[0] if start is not None and expert is not None else start
    return Parameter(
        name,
        MemberTensors(first, member_tensor, len(members)),
        members,
        inputs.coefficients,
        layout.linear.get(name) if expert is None else layout.stacked[name].layer(expert),
        base=start,
        factors=factors,
        own=own.members if own is not None else (),
        start=block.start if block is not None else 0,
        dtype=dtype,
    )


def whole_parameters(pieces: Iterable[MergedParameter]) -> Iterator[MergedParameter]:
    """Put merged parameters together whose rows came in pieces, one after the other."""
    whole, filled = None, 0
    for piece in pieces:
        if piece.rows is None:
            yield piece
            continue
        if whole is None:
            whole, filled = piece.value.new_empty((piece.rows, *piece.value.shape[1:])), 0
        whole[filled : filled + len(piece.value)] = piece.value
        filled += len(piece.value)
        if filled == piece.rows:
            yield MergedParameter(piece.name, whole)
            whole = None

"""Aligns members' tensors: label rows by name, token rows by text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regmean_lab.merging.parameters import FisherSource, GradientGramSource, GramSource
from regmean_lab.merging.weights import StoredWeights


@dataclass(frozen=True)
class RowOrder:
    """Where the rows of a merged parameter lie in a member's.

    Attributes:
        rows: for each row of the merged parameter, the member's row, or −1 where it has none; int64 [merged rows].
    """

    rows: Tensor

    @property
    def present(self) -> Tensor | None:
        """Which rows the member has, or None where that is all of them."""
        mask = self.rows >= 0
        return None if bool(mask.all()) else mask

    def take(self, tensor: Tensor) -> Tensor:
        """A tensor with its rows in the merged order; zeros where the member has none."""
        taken = tensor[self.rows.clamp(min=0)]
        if (mask := self.present) is not None:
            taken[~mask] = 0
        return taken


def order_by_names(wanted: Sequence[str], own: Sequence[str]) -> RowOrder | None:
    """The order in which a member's rows, one for each name, match the names wanted; None if that is their own."""
    if list(wanted) == list(own):
        return None
    places = {name: place for place, name in enumerate(own)}
    return RowOrder(torch.tensor([places.get(name, -1) for name in wanted], dtype=torch.int64))


def order_by_tokens(
    wanted: Mapping[str, int], wanted_rows: int, own: Mapping[str, int], own_rows: int
) -> RowOrder | None:
    """The order in which a member's rows match the merged vocabulary; None if that is their own.

    Rows that belong to no token, which fill tables up to a round size, match where both have one in the same place.

    Args:
        wanted: row of each token of the merged vocabulary.
        wanted_rows: number of its rows.
        own: row of each of the member's tokens.
        own_rows: number of the member's rows.
    """
    rows = torch.full((wanted_rows,), -1, dtype=torch.int64)
    free = set(range(min(wanted_rows, own_rows))) - set(wanted.values()) - set(own.values())
    for row in free:
        rows[row] = row
    for token, row in wanted.items():
        if row < wanted_rows and (place := own.get(token, own_rows)) < own_rows:
            rows[row] = place
    return None if wanted_rows == own_rows and bool((rows == torch.arange(wanted_rows)).all()) else RowOrder(rows)


class AlignedWeights(StoredWeights):
    """A member's weights as they are merged: chosen tensors under the merged model's names, rows in one order, float32.

    Tensors of float64 and of whole numbers keep their dtype.

    Args:
        weights: the member's weights.
        names: by the merged model's name, the member's own name for the tensor.
        orders: by the merged model's name, the order of the rows, where it is another one.
        filler: gives the rows that the member does not have; without it they are zeros.
    """

    def __init__(
        self,
        weights: StoredWeights,
        names: Mapping[str, str],
        orders: Mapping[str, RowOrder] | None = None,
        filler: StoredWeights | None = None,
    ) -> None:
        self.weights = weights
        self.names = dict(names)
        self.orders = dict(orders or {})
        self.filler = filler

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor."""
        tensor = self.weights[self.names[name]]
        if (order := self.orders.get(name)) is None:
            return _working(tensor)
        return self._filled(name, order.take(tensor), order.present, None)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name."""
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors."""
        return iter(self.names)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, in the merged model's order of rows."""
        shape = self.weights.shape(self.names[name])
        return (len(self.orders[name].rows), *shape[1:]) if name in self.orders else shape

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read some rows of one tensor."""
        order = self.orders.get(name)
        if order is None:
            return _working(self.weights.rows(self.names[name], start, stop))
        part = RowOrder(order.rows[start:stop])
        least, most = int(part.rows.clamp(min=0).min()), int(part.rows.max()) + 1
        read = self.weights.rows(self.names[name], least, max(most, least + 1))
        shifted = RowOrder(torch.where(part.rows >= 0, part.rows - least, part.rows))
        return self._filled(name, shifted.take(read), part.present, (start, stop))

    def present(self, name: str) -> Tensor | None:
        """Which rows of a tensor the member has; None for all."""
        return self.orders[name].present if name in self.orders and name in self.names else None

    def _filled(self, name: str, tensor: Tensor, mask: Tensor | None, rows: tuple[int, int] | None) -> Tensor:
        tensor = _working(tensor)
        if mask is not None and self.filler is not None:
            other = self.filler[name] if rows is None else self.filler.rows(name, *rows)
            tensor[~mask] = other[~mask].to(tensor)
        return tensor


class AlignedFisher:
    """Fisher information of a member, named and ordered as the merged model is.

    Args:
        source: the member's own.
        names: by the merged model's name, the names that the source may have for the parameter.
        orders: orders of rows by the merged model's name.
    """

    def __init__(self, source: FisherSource, names: Mapping[str, str], orders: Mapping[str, RowOrder]) -> None:
        self.source = source
        self.names = dict(names)
        self.orders = dict(orders)

    def diagonal(self, parameter: str) -> Tensor:
        """Mean squared gradient of each element of a parameter."""
        diagonal = self.source.diagonal(self.names.get(parameter, parameter))
        order = self.orders.get(parameter)
        return diagonal if order is None else order.take(diagonal)


class AlignedGram:
    """Gram matrices of a member under the merged model's names of layers.

    Args:
        source: the member's own.
        names: by the merged model's name of a layer, the member's own, where it is another one.
    """

    def __init__(self, source: GramSource, names: Mapping[str, str]) -> None:
        self.source = source
        self.names = dict(names)

    def matrix(self, layer: str) -> Tensor:
        """Mean of the products of the layer's inputs."""
        return self.source.matrix(self.names.get(layer, layer))

    def read(self, layer: str) -> Tensor:
        """Statistics of the layer's inputs, of a kind that has no matrices."""
        source: Any = self.source
        tensor: Tensor = source.read(self.names.get(layer, layer))
        return tensor


class AlignedGradientGram:
    """Gram matrices of gradients at layers' outputs, the outputs ordered as the merged model's are.

    Args:
        source: the member's own.
        orders: orders of the layers' outputs, by layer.
        names: by the merged model's name of a layer, the member's own, where it is another one.
    """

    def __init__(
        self, source: GradientGramSource, orders: Mapping[str, RowOrder], names: Mapping[str, str] | None = None
    ) -> None:
        self.source = source
        self.orders = dict(orders)
        self.names = dict(names or {})

    @property
    def layers(self) -> Collection[str]:
        """The layers that there is a matrix for."""
        merged = {own: name for name, own in self.names.items()}
        return [merged.get(layer, layer) for layer in self.source.layers]

    def matrix(self, layer: str) -> Tensor:
        """Mean of the products of the gradients at the layer's output."""
        matrix = self.source.matrix(self.names.get(layer, layer))
        order = self.orders.get(layer)
        return matrix if order is None else order.take(order.take(matrix).T)


def _working(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.dtype.is_floating_point else tensor

"""Squares of the gradients of single examples, from one backward pass over a batch.

For a linear layer the gradient of one example is a product of its inputs and of the gradients at its outputs. Both are
at hand for all examples after one pass over the batch, so that no pass for each example is needed. `find_rule` tells
how this works for a type of module, as *parts* of its parameters' per-example gradients; `add_squares_` adds up the
parts of a parameter (one for each call of a module that uses it), squares, and sums over the examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import is_conv1d


class Part(ABC):
    """What one call of a module adds to the per-example gradients of one parameter."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the gradients."""

    @abstractmethod
    def add_to_(self, gradients: Tensor, start: int) -> None:
        """Add the part of ``len(gradients)`` examples from ``start`` on to ``gradients`` ``[examples, *shape]``."""

    def write_to(self, gradients: Tensor, start: int) -> None:
        """The same, in place of what was in ``gradients``."""
        self.add_to_(gradients.zero_(), start)


@dataclass(frozen=True)
class Products(Part):
    """The part ``leftᵀ right`` of a matrix: ``left`` is ``[batch, rows, m]``, ``right`` is ``[batch, rows, n]``.

    ``spans`` tells for each example its first row that may differ from zero in both, and the one after the last; None
    if that is not known.
    """

    left: Tensor
    right: Tensor
    spans: Sequence[tuple[int, int]] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """See `Part`."""
        return self.left.dtype

    def add_to_(self, gradients: Tensor, start: int) -> None:
        """See `Part`."""
        left, right = self._rows(start, len(gradients))
        gradients.baddbmm_(left.transpose(1, 2), right)

    def write_to(self, gradients: Tensor, start: int) -> None:
        """See `Part`."""
        left, right = self._rows(start, len(gradients))
        torch.bmm(left.transpose(1, 2), right, out=gradients)

    def single_rows(self) -> tuple[Tensor, Tensor] | None:
        """Both factors ``[batch, m]`` and ``[batch, n]`` where no example has more than one row; None otherwise."""
        rows = self.left.shape[1]
        if rows == 1:
            return self.left[:, 0], self.right[:, 0]
        if self.spans is None or any(stop - start > 1 for start, stop in self.spans):
            return None
        # An example without a row has zeros everywhere.
        places = torch.tensor([min(start, rows - 1) for start, _ in self.spans], device=self.left.device)
        every = torch.arange(len(places), device=self.left.device)
        return self.left[every, places], self.right[every, places]

    def _rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Both factors for ``count`` examples from ``start`` on."""
        chosen = slice(start, start + count)
        if self.spans is None:
            return self.left[chosen], self.right[chosen]
        spans = self.spans[chosen]
        rows = slice(min(first for first, _ in spans), max(stop for _, stop in spans))
        return self.left[chosen, rows], self.right[chosen, rows]


@dataclass(frozen=True)
class Lookups(Part):
    """The part of an embedding table: ``values`` ``[batch, rows, width]`` at its rows ``indices`` ``[batch, rows]``."""

    indices: Tensor
    values: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """See `Part`."""
        return self.values.dtype

    def add_to_(self, gradients: Tensor, start: int) -> None:
        """See `Part`."""
        values = self.values[start : start + len(gradients)]
        indices = self.indices[start : start + len(gradients)]
        gradients.scatter_add_(1, indices.unsqueeze(-1).expand_as(values), values)


@dataclass(frozen=True)
class Whole(Part):
    """The part itself: ``values`` ``[batch, *shape]``."""

    values: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """See `Part`."""
        return self.values.dtype

    def add_to_(self, gradients: Tensor, start: int) -> None:
        """See `Part`."""
        gradients.add_(self.values[start : start + len(gradients)])


def add_squares_(total: Tensor, parts: Sequence[Part], examples: int, chunk_bytes: int) -> None:
    """Add the squared per-example gradients of one parameter to ``total``, summed over the examples.

    Args:
        total: of the parameter's shape, changed in place.
        parts: at least one; they are added up for each example before squaring.
        examples: number of examples in each part.
        chunk_bytes: the most memory that gradients of single examples may take at a time; one example always may.
    """
    first = parts[0]
    single = first.single_rows() if len(parts) == 1 and isinstance(first, Products) else None
    if single is not None:
        # With one row an example, Σ (l rᵀ)² = Σ l² (r²)ᵀ is a single product.
        left, right = single
        total.add_(left.square().T @ right.square())
        return
    lookups = [part for part in parts if isinstance(part, Lookups)]
    if len(lookups) == len(parts):
        _add_lookup_squares_(total, lookups)
        return
    whole = [part.values for part in parts if isinstance(part, Whole)]
    if len(whole) == len(parts):
        total.add_(torch.stack(whole).sum(0).square_().sum(0))
        return
    chunk = max(1, chunk_bytes // max(1, total.numel() * first.dtype.itemsize))
    buffer = torch.empty(min(chunk, examples), *total.shape, dtype=first.dtype, device=total.device)
    for start in range(0, examples, chunk):
        gradients = buffer[: min(chunk, examples - start)]
        first.write_to(gradients, start)
        for part in parts[1:]:
            part.add_to_(gradients, start)
        if len(gradients) == 1:
            total.addcmul_(gradients[0], gradients[0])
        else:
            total.add_(gradients.square_().sum(0))


def _add_lookup_squares_(total: Tensor, parts: Sequence[Lookups]) -> None:
    """`add_squares_` of an embedding table, without a table for each example."""
    table_size = total.shape[0]
    examples = len(parts[0].indices)
    if sum(part.indices.numel() for part in parts) >= examples * table_size:
        # More lookups than entries (relative positions): a table for each example is the smaller one.
        tables = torch.zeros(examples, *total.shape, dtype=parts[0].dtype, device=total.device)
        for part in parts:
            part.add_to_(tables, 0)
        total.add_(tables.square_().sum(0))
        return
    keys = []
    for part in parts:
        example = torch.arange(len(part.indices), device=part.indices.device).unsqueeze(1)
        keys.append((example * table_size + part.indices).flatten())
    # A token that an example holds several times has one gradient: the sum over its places.
    distinct, place = torch.unique(torch.cat(keys), return_inverse=True)
    values = torch.cat([part.values.flatten(0, 1) for part in parts])
    sums = torch.zeros(len(distinct), total.shape[1], dtype=values.dtype, device=values.device)
    sums.index_add_(0, place, values)
    total.index_add_(0, distinct % table_size, sums.square_().to(total.dtype))


Parts: TypeAlias = Iterator[tuple[Tensor, Part]]
"""Parameters, each with a part of its per-example gradients."""

Rule: TypeAlias = Callable[[Any, Tensor, Tensor], Parts]
"""From a module, its input and the gradient at its output (the examples first in both) to its parameters' parts."""


def find_rule(module: nn.Module) -> Rule | None:
    """How the per-example gradients of the module's own parameters are found; None where this is not known.

    Known are ``nn.Linear``, Hugging Face's ``Conv1D``, ``nn.Embedding``, ``nn.LayerNorm``, ``nn.RMSNorm`` and the
    root-mean-square normalisations of T5 and Llama and of models built like them. A module that overrides ``forward``
    or has other parameters (those of a weight normalisation, say) is not taken for its base class.
    """
    parameters = {name for name, _ in module.named_parameters(recurse=False)}
    if "forward" in vars(module) or not {"weight"} <= parameters <= {"weight", "bias"}:
        return None
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return _linear_parts
    if is_conv1d(module):
        return _conv1d_parts
    if forward is nn.Embedding.forward:
        # Other options change the gradient (by frequency) or the table during the forward pass (by norm).
        return None if module.scale_grad_by_freq or module.max_norm is not None else _embedding_parts
    if forward is nn.LayerNorm.forward:
        return _layer_norm_parts
    if (forward is nn.RMSNorm.forward and module.eps is not None) or _is_root_mean_square_norm(module):
        return _rms_norm_parts
    return None


def _is_root_mean_square_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a normalisation like T5's and Llama's, by its looks and by what it computes."""
    epsilon = getattr(module, "variance_epsilon", None)
    parameters = dict(module.named_parameters())
    looks = type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")) and list(parameters) == ["weight"]
    if not looks or not isinstance(epsilon, float) or parameters["weight"].dim() != 1:
        return False
    weight = parameters["weight"].detach()
    probe = torch.linspace(-1, 2, len(weight), dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        return torch.allclose(module.forward(probe), functional.rms_norm(probe, weight.shape, weight, epsilon), 1e-2)


def _rows(tensor: Tensor) -> Tensor:
    """``[batch, …, width]`` as ``[batch, rows, width]``."""
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


def _spans(rows: Tensor) -> list[tuple[int, int]] | None:
    """Of gradients ``[batch, rows, width]`` each example's first row that is not zero, and the one after the last.

    Padding has no gradient, and in the last layers of a classifier all tokens but one have none. None on a device for
    which the processor would have to wait.
    """
    if rows.device.type != "cpu" or rows.shape[1] == 1:
        return None
    spans = []
    for nonzero in (rows.abs().amax(-1) != 0).numpy():
        places = nonzero.nonzero()[0]
        spans.append((int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0))
    return spans


def _linear_parts(module: nn.Linear, inputs: Tensor, gradient: Tensor) -> Parts:
    rows = _rows(gradient)
    yield module.weight, Products(rows, _rows(inputs), _spans(rows))
    if module.bias is not None:
        yield module.bias, Whole(rows.sum(1))


def _conv1d_parts(module: Any, inputs: Tensor, gradient: Tensor) -> Parts:
    rows = _rows(gradient)
    yield module.weight, Products(_rows(inputs), rows, _spans(rows))
    yield module.bias, Whole(rows.sum(1))


def _embedding_parts(module: nn.Embedding, inputs: Tensor, gradient: Tensor) -> Parts:
    if module.padding_idx is not None:
        gradient = gradient.masked_fill((inputs == module.padding_idx).unsqueeze(-1), 0.0)
    yield module.weight, Lookups(inputs.reshape(inputs.shape[0], -1), _rows(gradient))


def _layer_norm_parts(module: nn.LayerNorm, inputs: Tensor, gradient: Tensor) -> Parts:
    shape = module.normalized_shape
    by_row = (inputs.shape[0], -1, *shape)
    normalized = functional.layer_norm(inputs, shape, eps=module.eps)
    yield module.weight, Whole((gradient * normalized).reshape(by_row).sum(1))
    if module.bias is not None:
        yield module.bias, Whole(gradient.reshape(by_row).sum(1))


def _rms_norm_parts(module: Any, inputs: Tensor, gradient: Tensor) -> Parts:
    shape = module.weight.shape
    epsilon = module.eps if isinstance(module, nn.RMSNorm) else module.variance_epsilon
    normalized = functional.rms_norm(inputs, shape, eps=epsilon)
    yield module.weight, Whole((gradient * normalized).reshape(inputs.shape[0], -1, *shape).sum(1))

"""Parameters that are on the device that computes only while they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import StatisticsError

ReadWeight = Callable[[str], Tensor]
"""Reads a parameter, or a buffer, by its name in the model."""


class BlockWeights:
    """Brings a model's tensors to a device, some at a time.

    Args:
        model: the model; tensors that it holds itself are moved, those on the device ``meta`` are read.
        read: reads these; None for a model that holds all.
        device: where they are needed.
        dtype: of parameters (and of stored buffers) of real numbers there; None leaves each as it is stored.
    """

    def __init__(
        self, model: nn.Module, read: ReadWeight | None, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self._model = model
        self._read = read
        self._device = device
        self._dtype = dtype

    def names(self, blocks: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
        """The names of the tensors of each block, and of those in none; tied ones under all their names."""
        listed = [name for name, _ in self._model.named_parameters(remove_duplicate=False)]
        listed += [name for name, _ in self._model.named_buffers(remove_duplicate=False)]
        of_blocks: dict[str, list[str]] = {block: [] for block in blocks}
        others: list[str] = []
        for name in listed:
            parts = name.split(".")
            owner = next((path for path in map(".".join, _beginnings(parts)) if path in of_blocks), None)
            (others if owner is None else of_blocks[owner]).append(name)
        return of_blocks, others

    @contextmanager
    def loaded(self, names: Iterable[str]) -> Iterator[None]:
        """The tensors are on the device inside the ``with`` block; afterwards the model has those of before.

        Raises:
            StatisticsError: for one that is nowhere.
        """
        before: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
        made: dict[int, Tensor] = {}
        try:
            for name in names:
                path, _, own = name.rpartition(".")
                module = self._model.get_submodule(path)
                is_parameter = own in module._parameters
                place: dict[str, Tensor | None] = module._parameters if is_parameter else module._buffers  # type: ignore[assignment]
                tensor = place[own]
                assert tensor is not None
                before.append((place, own, tensor))
                if id(tensor) not in made:
                    kept = not is_parameter and own in module._non_persistent_buffers_set
                    made[id(tensor)] = self._on_device(name, tensor, is_parameter, None if kept else self._dtype)
                place[own] = made[id(tensor)]
            yield
        finally:
            for place, own, tensor in before:
                place[own] = tensor

    def _on_device(self, name: str, tensor: Tensor, is_parameter: bool, dtype: torch.dtype | None) -> Tensor:
        value = tensor.detach()
        if tensor.is_meta:
            if self._read is None:
                raise StatisticsError(f"'{name}' has no values, and nothing to read them from")
            value = self._read(name)
        # To the device first, so that what is made of another dtype is not in main memory as well.
        value = value.to(self._device)
        value = value.to(dtype) if dtype is not None and value.is_floating_point() else value
        return nn.Parameter(value, requires_grad=False) if is_parameter else value


def _beginnings(parts: list[str]) -> Iterator[list[str]]:
    return (parts[:length] for length in range(1, len(parts)))

"""What blocks of a model give, held until the next block reads it: in main memory, and beyond a limit in files."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import StatisticsError


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A value with its tensors changed, inside of tuples, lists and mappings; None, numbers and text stay as they are.

    Raises:
        StatisticsError: for anything else, of which it is not known what tensors it holds.
    """
    if isinstance(value, Tensor):
        return change(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (tuple, list):
        return type(value)(map_tensors(part, change) for part in value)
    if type(value) is dict:
        return {name: map_tensors(part, change) for name, part in value.items()}
    raise StatisticsError(f"a {type(value).__name__}, of which it is not known what it holds")


@dataclass
class _Held:
    """A value whose tensors are listed apart: in ``tensors``, or where there is a ``path`` in that file."""

    frame: Any
    tensors: list[Tensor]
    size: int
    path: Path | None


class HeldOutputs:
    """Values with tensors, by key.

    Args:
        folder: where those are written that do not fit into memory; made when it is needed, and emptied by `close`.
        limit: most bytes that are held in memory.

    Attributes:
        memory_bytes: what is held in memory.
        file_bytes: what is held in files.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.memory_bytes = 0
        self.file_bytes = 0
        self._held: dict[Hashable, _Held] = {}
        self._files = 0

    def put(self, key: Hashable, value: Any) -> None:
        """Hold a value in place of the one that was held for ``key``.

        Raises:
            StatisticsError: for a value that is not made of tensors, or where files cannot be written.
        """
        self.drop(key)
        tensors: list[Tensor] = []
        frame = map_tensors(value, lambda tensor: _place(tensors, tensor))
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if self.memory_bytes + size <= self.limit:
            self._held[key] = _Held(frame, [tensor.detach().to("cpu") for tensor in tensors], size, None)
            self.memory_bytes += size
            return
        path = self.folder / f"{self._files}.safetensors"
        self._files += 1
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Copies, because tensors that share their memory, as views do, cannot be written.
            copies = {
                str(place): tensor.detach().to("cpu", copy=True).contiguous() for place, tensor in enumerate(tensors)
            }
            save_file(copies, path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                path.unlink()
            raise StatisticsError(
                f"{self.folder}: activations of {size} bytes cannot be written ({error}); {self.file_bytes} bytes of "
                "them are there. Make room, take fewer examples, or hold more of them in memory"
            ) from None
        self._held[key] = _Held(frame, [], size, path)
        self.file_bytes += size

    def get(self, key: Hashable, device: torch.device) -> Any:
        """A copy of the value that is held for ``key``, its tensors on ``device``."""
        held = self._held[key]
        tensors = held.tensors
        if held.path is not None:
            try:
                read = load_file(held.path)
            except (OSError, SafetensorError) as error:
                raise StatisticsError(f"{held.path}: activations cannot be read again ({error})") from None
            tensors = [read[str(place)] for place in range(len(read))]
        return map_tensors(held.frame, lambda place: tensors[int(place)].to(device, copy=held.path is None))

    def drop(self, key: Hashable) -> None:
        """Let go of what is held for ``key``, if anything is."""
        held = self._held.pop(key, None)
        if held is None:
            return
        if held.path is None:
            self.memory_bytes -= held.size
        else:
            self.file_bytes -= held.size
            held.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything."""
        for key in list(self._held):
            self.drop(key)


def _place(tensors: list[Tensor], tensor: Tensor) -> Tensor:
    """Put a tensor into the list, and its place there, as a tensor, into the frame."""
    tensors.append(tensor)
    return torch.tensor(len(tensors) - 1)

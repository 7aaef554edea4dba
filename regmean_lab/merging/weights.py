"""Weights of a model folder, read tensor by tensor from safetensors."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from regmean_lab.merging.parameters import MergeError
from regmean_lab.utils.files import INDEX_FILE, WEIGHTS_FILE


class StoredWeights(Mapping[str, Tensor]):
    """Weights that are read when they are asked for: whole tensors, or only some of their rows."""

    concurrent: ClassVar[bool] = True
    """Whether several threads may read at once."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    @abstractmethod
    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read the rows (indices of the first dimension) from ``start`` to before ``stop`` of one tensor."""

    def present(self, name: str) -> Tensor | None:
        """Which rows of a tensor the model really has, bool [rows]; None for all of them, or no tensor.

        A model lacks rows where another one has more tokens: what stands there in its tensor means nothing.
        """
        return None


class SafetensorsWeights(StoredWeights):
    """The weights of a Hugging Face folder, in one file or several; a tensor is read when it is asked for.

    Args:
        folder: holds ``model.safetensors``, or ``model.safetensors.index.json`` and the files that it names.

    Raises:
        MergeError: when there is no such file, or it is not a valid safetensors file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}
        for path in _weight_files(folder):
            try:
                with safe_open(path, framework="pt") as file:
                    self._files.update(dict.fromkeys(file.keys(), path))
            except (SafetensorError, OSError) as error:
                raise MergeError(f"{path}: not a readable safetensors file ({error})") from None
        self._open = {path: safe_open(path, framework="pt") for path in set(self._files.values())}

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor, shape and dtype as stored, on the CPU."""
        # What was read of a mapped file stays resident until the mapping goes: so each tensor has a mapping of its own.
        tensor: Tensor = safe_open(self._files[name], framework="pt").get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name; reads none."""
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors."""
        return iter(self._files)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return tuple(self._open[self._files[name]].get_slice(name).get_shape())

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read some rows of one tensor."""
        tensor: Tensor = safe_open(self._files[name], framework="pt").get_slice(name)[start:stop]
        return tensor


def tensor_shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Shape of one tensor, without reading it where the source can tell."""
    return weights.shape(name) if isinstance(weights, StoredWeights) else tuple(weights[name].shape)


def tensor_rows(weights: Mapping[str, Tensor], name: str, rows: slice | None) -> Tensor:
    """Some rows of one tensor, or all of it; reads no others where the source can do so."""
    if rows is None:
        return weights[name]
    return weights.rows(name, rows.start, rows.stop) if isinstance(weights, StoredWeights) else weights[name][rows]


def present_rows(weights: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Which rows of a tensor a model really has, see `StoredWeights.present`."""
    return weights.present(name) if isinstance(weights, StoredWeights) else None


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        raise MergeError(f"{folder}: no {WEIGHTS_FILE} or {INDEX_FILE} there; expected a Hugging Face model folder")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise MergeError(f"{index}: expected a JSON object whose 'weight_map' gives each tensor's file") from None
    if outside := [name for name in names if Path(name).name != name]:
        raise MergeError(f"{index}: names files outside its folder: {', '.join(outside)}")
    return [folder / name for name in names]

"""Writing weights as they are merged: a tensor or a piece of it in memory at a time, whatever the size of the files.

huggingface_hub says which tensor goes to which file. It saves whole dictionaries only, as safetensors does: so
the files are written here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor

from regmean_lab.checkpoints.weights import DTYPE_NAMES
from regmean_lab.merging.parameters import MergeError
from regmean_lab.models.headers import DTYPE_BYTES, LENGTH_BYTES
from regmean_lab.statistics import all_finite
from regmean_lab.utils.files import INDEX_FILE, WEIGHTS_FILE, share, write_json

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that will be written: its name, dtype and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[DTYPE_NAMES[self.dtype]]


@dataclass(frozen=True)
class Shard:
    """A file of weights that will be written: its name and its tensors, in the order in which they are written."""

    file: str
    tensors: tuple[PlannedTensor, ...]


def file_size(shard: Shard) -> int:
    """Bytes of a file of weights that will be written."""
    return len(_header(shard.tensors)) + sum(tensor.size for tensor in shard.tensors)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``5GB``, ``200MiB`` or ``1000000``.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS or (size := int(float(match[1]) * _UNITS[match[2].upper()])) < 1:
        raise ValueError(f"expected a size such as 5GB or 200MiB, got {text!r}")
    return size


def plan_shards(tensors: Sequence[PlannedTensor], limit: int) -> list[Shard]:
    """Divide tensors into files of at most ``limit`` bytes each (a larger tensor has a file of its own).

    In each file, wide dtypes come first, so that every tensor is aligned.
    """
    if not tensors:  # of a head without parameters of its own
        return [Shard(WEIGHTS_FILE, ())]
    planned = {tensor.name: tensor for tensor in tensors}
    split = split_state_dict_into_shards_factory(
        planned,
        get_storage_size=lambda tensor: tensor.size,
        filename_pattern=WEIGHTS_FILE.replace(".", "{suffix}."),
        max_shard_size=limit,
    )
    return [
        Shard(file, tuple(sorted(map(planned.__getitem__, names), key=lambda tensor: -tensor.dtype.itemsize)))
        for file, names in split.filename_to_tensors.items()
    ]


def write_shards(folder: Path, shards: Sequence[Shard], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write shards, and last the index that lists them where there are several.

    Args:
        folder: where they are written.
        shards: what is written.
        tensors: name and value of each tensor, in the order of the shards: whole, or in consecutive pieces of its rows;
            converted to the planned dtype.

    Raises:
        MergeError: for a value beyond the range of the planned dtype, which would become infinity.
        ValueError: when tensors are not those that were planned.
    """
    values = iter(tensors)
    for shard in shards:
        with _ShardWriter(folder / shard.file, shard) as writer:
            for planned in shard.tensors:
                for piece in _pieces(planned, values):
                    writer.write(as_planned(piece, planned))
    if next(values, None) is not None:
        raise ValueError("more tensors came than were planned")
    if len(shards) > 1:
        total = sum(tensor.size for shard in shards for tensor in shard.tensors)
        names = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))})


def _pieces(planned: PlannedTensor, values: Iterator[tuple[str, Tensor]]) -> Iterator[Tensor]:
    """The values of one tensor: one, or pieces of its rows."""
    rows = 0
    while True:
        name, value = next(values, ("", torch.empty(0)))
        shape = tuple(value.shape)
        if name == planned.name and shape == planned.shape and rows == 0:
            yield value
            return
        count = shape[0] if shape and planned.shape and shape[1:] == planned.shape[1:] else 0
        if name != planned.name or not 0 < count <= planned.shape[0] - rows:
            raise ValueError(f"expected {planned.name} {planned.shape}, got {name} {shape}")
        yield value
        rows += count
        if rows == planned.shape[0]:
            return


def as_planned(value: Tensor, planned: PlannedTensor) -> Tensor:
    """A tensor, or some rows of it, as it is written: on the CPU, in the planned dtype.

    Raises:
        MergeError: for a value beyond the range of that dtype.
    """
    if value.dtype == planned.dtype:
        return value.detach().cpu()
    converted = value.detach().to(planned.dtype)
    if not all_finite(converted) and value.is_floating_point():
        extremes = torch.stack(value.detach().aminmax())
        if extremes.isfinite().all():
            largest = max(extremes.tolist(), key=abs)
            name, limit = str(planned.dtype).removeprefix("torch."), torch.finfo(planned.dtype).max
            raise MergeError(
                f"{planned.name}: its largest value is {largest:.6g}, beyond the range of {name} (±{limit:.6g}); "
                "nothing was written. Choose a wider one with dtype=bfloat16 or dtype=float32 (where none is chosen, "
                "the first checkpoint's counts)"
            )
    return converted.cpu()


class _ShardWriter:
    """A safetensors file whose header is known beforehand; appears under its name when it is complete."""

    def __init__(self, path: Path, shard: Shard) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._header = _header(shard.tensors)

    def __enter__(self) -> _ShardWriter:
        self._file: BinaryIO = self._temporary.open("wb")
        self._file.write(self._header)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._file.close()
            if kind is None:
                share(self._temporary)
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, tensor: Tensor) -> None:
        """Append the next tensor, or the next rows of it."""
        if tensor.numel():
            self._file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _header(tensors: Sequence[PlannedTensor]) -> bytes:
    entries: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
    place = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.size],
        }
        place += tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text

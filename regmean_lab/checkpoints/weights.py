"""Weights of a checkpoint, read tensor by tensor or row by row with plain reads.

Files are not mapped into memory: what was read and merged is let go of at once, so the process needs no more memory for
large files, and a file that is cut off while it is read is an error rather than a signal that ends the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.weights import StoredWeights
from regmean_lab.models.headers import DTYPE_BYTES, CheckpointError, StoredTensor

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Dtypes that are merged; the others of the format are those of quantized weights."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The format's name of a dtype."""


class FileWeights(StoredWeights):
    """Weights in safetensors files.

    Args:
        tensors: where they lie, as ``stored_tensors`` tells.

    Raises:
        CheckpointError: for dtypes that cannot be merged, all of them.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        if found := dtype_problems(tensors):
            raise CheckpointError(found)
        self.tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor, shape and dtype as stored."""
        return self._read(self.tensors[name], 0, math.prod(self.tensors[name].shape)).view(self.tensors[name].shape)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name; reads none."""
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor as stored."""
        return DTYPES[self.tensors[name].dtype]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read some rows of one tensor."""
        tensor = self.tensors[name]
        width = math.prod(tensor.shape[1:])
        return self._read(tensor, start * width, stop * width).view(stop - start, *tensor.shape[1:])

    def _read(self, tensor: StoredTensor, start: int, stop: int) -> Tensor:
        """Elements from ``start`` to before ``stop``, as a vector."""
        size = DTYPE_BYTES[tensor.dtype]
        values = torch.empty(stop - start, dtype=DTYPES[tensor.dtype])
        buffer = values.view(torch.uint8).numpy().data if values.numel() else memoryview(b"")
        try:
            with tensor.path.open("rb", buffering=0) as file:
                file.seek(tensor.start + start * size)
                read = 0
                while read < len(buffer) and (count := file.readinto(buffer[read:])):
                    read += count
        except OSError as error:
            raise MergeError(f"{tensor.path}: cannot be read ({error.strerror})") from None
        if read < len(buffer):
            raise MergeError(f"{tensor.path}: cut off while it was read; did something else write to it?")
        return values


def dtype_problems(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Tensors whose dtype cannot be merged."""
    return [
        f"{tensor.path}: tensor {name!a}: {tensor.dtype} cannot be merged; merge what it was quantized from"
        for name, tensor in tensors.items()
        if tensor.dtype not in DTYPES
    ]

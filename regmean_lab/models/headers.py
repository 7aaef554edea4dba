"""Headers of safetensors files, checked before anything is allocated.

A file is 8 bytes (the header's length, little-endian), the header (JSON: by tensor name its dtype, shape and place in
the data), and the data. Whoever made the file may have made the header lie: nothing of it is believed here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.utils.errors import UserError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 16
METADATA_KEY = "__metadata__"

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes of an element, by the format's name of the dtype."""


class CheckpointError(UserError):
    """A checkpoint that cannot be used; ``problems`` has one message for each thing that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        path: the file.
        dtype: the format's name of its dtype, a key of ``DTYPE_BYTES``.
        shape: its shape.
        start: offset of its first byte in the file.
        size: its bytes.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name, in the header's order; reads the header only.

    Raises:
        CheckpointError: with everything that is wrong with the file, naming the tensors.
    """
    if not path.is_file():  # no device or pipe, which could be read for ever
        raise CheckpointError([f"{path}: not a file"])
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(LENGTH_BYTES)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < LENGTH_BYTES or length > size - LENGTH_BYTES:
                raise CheckpointError([f"{path}: cut off: {size} bytes, of which the header takes {_claimed(prefix)}"])
            if length > MAX_HEADER_BYTES:
                raise CheckpointError([f"{path}: a header of {length} bytes; at most {MAX_HEADER_BYTES} are read"])
            text = file.read(length)
    except OSError as error:
        raise CheckpointError([f"{path}: cannot be read ({error.strerror})"]) from None
    content = parse_json(text, path)
    found: list[str] = []
    tensors: dict[str, StoredTensor] = {}
    if not _is_metadata(content.pop(METADATA_KEY, None)):
        found.append(f"{path}: metadata that is not text by name")
    begin = LENGTH_BYTES + length
    for name, entry in content.items():
        if problem := _problem(name, entry, size - begin):
            found.append(f"{path}: tensor {_shown(name)}: {problem}")
        else:
            start, stop = entry["data_offsets"]
            tensors[name] = StoredTensor(path, entry["dtype"], tuple(entry["shape"]), begin + start, stop - start)
    if not found:
        found = [f"{path}: {problem}" for problem in _gaps(tensors, begin, size)]
    if found:
        raise CheckpointError(found)
    return tensors


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: for anything else, an object with a name twice, or one nested beyond all reason.
    """
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise CheckpointError([f"{path}: JSON nested too deep"]) from None
    except ValueError as error:
        raise CheckpointError([f"{path}: no valid JSON ({str(error)[:200]})"]) from None
    if not isinstance(content, dict):
        raise CheckpointError([f"{path}: expected a JSON object"])
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _is_metadata(value: Any) -> bool:
    """Whether this is text by name, or nothing: null is read as absent, as the format's library does."""
    return value is None or (isinstance(value, dict) and all(isinstance(part, str) for part in value.values()))


def _problem(name: str, entry: Any, available: int) -> str | None:
    """What is wrong with one entry of a header; ``available`` bytes of data follow the header."""
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        return f"its name is not 1 to {MAX_NAME_LENGTH} printable characters"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "expected exactly dtype, shape and data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        return f"dtype {str(dtype)[:40]!r} is none of {', '.join(DTYPE_BYTES)}"
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        return f"its shape is not a list of at most {MAX_DIMENSIONS} sizes"
    if not _are_sizes(offsets) or len(offsets) != 2:
        return "its data_offsets are not two numbers"
    start, stop = offsets
    if not start <= stop <= available:
        return f"its bytes {start} to {stop} are not within the {available} bytes of data"
    if math.prod(shape) * DTYPE_BYTES[dtype] != stop - start:
        return f"{stop - start} bytes for {dtype} of shape {list(shape)}"
    return None


def _are_sizes(values: Any) -> bool:
    """Whether this is a list of numbers from 0 that 64 bits can hold."""
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 for value in values
    )


def _gaps(tensors: dict[str, StoredTensor], begin: int, size: int) -> list[str]:
    """Where tensors overlap, and bytes that belong to none."""
    found, place = [], begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)):
        if tensor.start < place:
            found.append(f"tensor {_shown(name)}: overlaps the one before it")
        elif tensor.start > place:
            found.append(f"tensor {_shown(name)}: {tensor.start - place} bytes before it belong to no tensor")
        place = max(place, tensor.start + tensor.size)
    if place != size:
        found.append(f"{size - place} bytes at the end belong to no tensor")
    return found


def _claimed(prefix: bytes) -> str:
    return f"{int.from_bytes(prefix, 'little')} and its length {LENGTH_BYTES}" if len(prefix) == LENGTH_BYTES else "8"


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")

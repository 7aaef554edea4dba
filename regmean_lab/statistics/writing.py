"""A statistics file that is written one matrix after the other: no other is in memory meanwhile.

A safetensors file begins with a header that tells where every tensor lies. What is in it is known at the end only
(which layers share a matrix, how many rows each saw), so room is left for it, and filled up with blanks, as the format
allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from regmean_lab.utils.files import new_file, share

from .errors import StatisticsError
from .forms import Form, to_form
from .store import Json, encoded_metadata, form_header

_ALIGNMENT = 8
_SPARE = 1 << 16
"""Bytes for what the header tells of the whole file."""

_NAMED = 8
"""How often a header may name a layer: its tensors, rows, the layer whose matrix it shares, widths, settings."""


class MatrixWriter:
    """Writes symmetric matrices to a file that `matrix_writer` opened."""

    def __init__(
        self,
        file: BinaryIO,
        layers: Iterable[str],
        metadata: Mapping[str, Json],
        form: Form,
        rank: int | None,
    ) -> None:
        self._form: Form = form
        self._rank = rank
        self._form_header = form_header(form, rank)
        self._file = file
        # Metadata are JSON in JSON: quotes and backslashes are written as two characters, and once more.
        each = sum(_NAMED * (len(json.dumps(json.dumps(layer))) + 64) for layer in layers)
        room = _SPARE + each + len(json.dumps(encoded_metadata({}, metadata)))
        self._room = -(-room // _ALIGNMENT) * _ALIGNMENT
        self._entries: dict[str, object] = {}
        self._position = 0
        self.complete = False
        file.seek(8 + self._room)

    def add(self, name: str, matrix: Tensor) -> None:
        """Write the matrix ``[n, n]`` of a leading layer, in the file's form."""
        for tensor_name, tensor in to_form(name, matrix.detach(), self._form, self._rank).items():
            stored = tensor.to("cpu", torch.float32).contiguous()
            size = stored.numel() * stored.element_size()
            self._write(stored.view(-1).numpy().data)
            self._entries[tensor_name] = {
                "dtype": "F32",
                "shape": list(stored.shape),
                "data_offsets": [self._position, self._position + size],
            }
            self._position += size

    def finish(self, header: Mapping[str, object], metadata: Mapping[str, Json]) -> None:
        """Write what the file tells of its matrices; see `regmean_lab.statistics.store.write_statistics`.

        Raises:
            StatisticsError: as that does; for metadata that are much more than was foreseen.
        """
        told = encoded_metadata({**header, **self._form_header}, metadata)
        text = json.dumps({"__metadata__": told, **self._entries}).encode()
        if len(text) > self._room:
            raise StatisticsError(
                f"metadata of {len(text)} bytes do not fit into the {self._room} bytes that were left"
            )
        self._file.seek(0)
        self._write(self._room.to_bytes(8, "little") + text.ljust(self._room))
        self.complete = True

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._file.flush()  # a disk that is full tells now, and not where the file is closed


@contextmanager
def matrix_writer(
    path: Path, layers: Iterable[str], metadata: Mapping[str, Json], *, form: Form = "full", rank: int | None = None
) -> Iterator[MatrixWriter]:
    """Write a file of symmetric matrices, which has its name when it is finished; on the way it has a temporary one.

    Args:
        path: the file; an existing one is replaced.
        layers: names of all layers that it may tell of.
        metadata: those that are known, for which room is left.
        form: in which form matrices are stored, see `regmean_lab.statistics.forms`.
        rank: of "low_rank".

    Raises:
        StatisticsError: for another form, or a rank where there is none.
        DiskShortage: where there is no room for the file.
    """
    with new_file(path, "statistics") as temporary:
        with temporary.open("wb") as file:
            writer = MatrixWriter(file, layers, metadata, form, rank)
            yield writer
            if not writer.complete:
                raise StatisticsError(f"{path}: was not finished")
        share(temporary)

"""Statistics files: one safetensors file each, with what is needed to understand it in the metadata.

A Gram file holds a float32 tensor ``[in, in]`` for each leading layer, a gradient Gram file one ``[out, out]`` for each
layer, a Fisher file a float32 tensor for each trainable parameter. Gram matrices of both kinds may be stored in a
smaller form instead (see `regmean_lab.statistics.forms`), and are read as matrices whatever their form. Metadata values
are strings, JSON where they are structured:

- ``format``: "regmean_lab.statistics"; ``version``: "1"; ``kind``: a name of :mod:`regmean_lab.statistics.kinds`;
- ``examples``, ``batches``: how many were seen;
- ``rows``: JSON, by leading layer, the number of rows that the matrix is the mean of (Fisher: empty);
- ``shared``: JSON, by layer or parameter, the name of the tensor that holds its statistics;
- ``data_fingerprint``: what tells the data, as given; ``settings``: JSON, as given;
- Fisher and gradient Gram: ``labels_from`` and ``likelihood``; ``batch_mean_labels`` of a Fisher diagonal of batch
  means at pseudo labels;
- ``unseen``: JSON, of experts that no token was sent to, by layer, the number of inputs: their matrices are zero, and
  not stored; absent without any;
- ``form``: "packed", "diagonal" or "low_rank", and of the last ``rank``; absent where matrices are stored whole;
- of counts of tokens: ``vocabulary``, ``parts`` and ``privacy``, see :mod:`regmean_lab.statistics.kinds.tokens`;
- anything else given: JSON.

Layers with the same inputs share a matrix, which is stored once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from regmean_lab.utils.files import new_file, share

from .errors import StatisticsError, name_list
from .finite import all_finite
from .forms import FORMS, Form, check_form, from_form, packed_width, shape_fault, tensor_names, to_form

FORMAT = "regmean_lab.statistics"
VERSION = "1"

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

_File = TypeVar("_File", bound="StatisticsFile")

_WIDEST = 1 << 17
"""Widest matrix of zeros that a file may ask for: nothing is stored of it that would show its size."""

_PLAIN = ("format", "version", "kind", "form", "data_fingerprint", "labels_from", "likelihood", "batch_mean_labels")
_REQUIRED = ("rows", "shared", "examples", "batches", "data_fingerprint", "settings")


class StatisticsFile:
    """A statistics file of any kind, open for reading; tensors are read when asked for.

    Can be used in a ``with`` statement, which closes it.

    Attributes:
        path: the file.
        metadata: the metadata, decoded.
        shared: by layer or parameter, the name of the tensor that holds its statistics.

    Raises:
        StatisticsError: for a file that is missing, damaged, or something else.
    """

    kind: ClassVar[str | None] = None
    """The only kind that it reads; None for any."""

    is_of_matrices: ClassVar[bool] = False
    """Whether its tensors are symmetric matrices, in any form, each with its number of rows."""

    stored_types: ClassVar[tuple[str, ...]] = ("F32",)
    """The dtypes that its tensors may have, as safetensors calls them."""

    types: ClassVar[dict[str, type[StatisticsFile]]] = {}
    """By kind, what reads it: every subclass that names one."""

    def __init_subclass__(cls) -> None:
        """Make the kind known that the subclass reads."""
        super().__init_subclass__()
        if cls.kind is not None:
            StatisticsFile.types[cls.kind] = cls

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: Any = self._open()
        self.metadata: dict[str, Any] = self._read_metadata(self._file.metadata() or {})
        self.shared: dict[str, str] = self.metadata["shared"]
        self._check_tensors()

    def __enter__(self: _File) -> _File:
        """The file itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the file; tensors can no longer be read."""
        self._file = None

    @property
    def form(self) -> Form:
        """How matrices are stored; "full" for a Fisher diagonal."""
        form: Form = self.metadata.get("form", "full")
        return form

    @property
    def examples(self) -> int:
        """Number of examples seen."""
        return int(self.metadata["examples"])

    @property
    def batches(self) -> int:
        """Number of batches seen."""
        return int(self.metadata["batches"])

    def read(self, name: str) -> Tensor:
        """The statistics of layer or parameter ``name``, float32: of a Gram matrix in any form, the matrix.

        Raises:
            StatisticsError: if the file has none for it, or was closed.
        """
        if name not in self.shared:
            raise StatisticsError(f"{self.path}: nothing for '{name}'; it has {name_list(self.shared)}")
        if self._file is None:
            raise StatisticsError(f"{self.path}: read after it was closed")
        # What was read of a mapped file stays resident until the mapping goes: so each tensor has a mapping of its own.
        return from_form(self.shared[name], self.form, self._open().get_tensor)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the statistics of layer or parameter ``name``, without reading them.

        Raises:
            StatisticsError: if the file has none for it.
        """
        if name not in self.shared:
            raise StatisticsError(f"{self.path}: nothing for '{name}'; it has {name_list(self.shared)}")
        return tuple(self._file.get_slice(self.shared[name]).get_shape())

    def check_finite(self) -> None:
        """Read all tensors and raise if one holds NaN or infinity.

        Raises:
            StatisticsError: naming the tensors.
        """
        broken = [name for name in dict.fromkeys(self.shared.values()) if not all_finite(self.read(name))]
        if broken:
            raise self._fault(f"NaN or infinity in {name_list(broken)}")

    def _fault(self, fault: str) -> StatisticsError:
        """The error for a file that cannot be used."""
        return StatisticsError(f"{self.path}: {fault}; delete the file to have it collected again")

    def _open(self) -> Any:
        """The open file."""
        if not self.path.is_file():
            raise StatisticsError(f"{self.path}: no such file; collect the statistics first")
        try:
            return safe_open(str(self.path), framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise self._fault(f"not a readable safetensors file, perhaps cut off ({error})") from error

    def _read_metadata(self, raw: Mapping[str, str]) -> dict[str, Any]:
        """The metadata, decoded and checked."""
        if raw.get("format") != FORMAT:
            raise self._fault(f"not a statistics file (format is {raw.get('format')!r}, expected {FORMAT!r})")
        if raw.get("version") != VERSION:
            raise self._fault(f"version {raw.get('version')!r} of the format, this program reads {VERSION!r}")
        expected = tuple(self.types) if self.kind is None else (self.kind,)
        if raw.get("kind") not in expected:
            raise self._fault(f"holds statistics of the kind {raw.get('kind')!r}, expected {' or '.join(expected)}")
        missing = [name for name in _REQUIRED if name not in raw]
        if missing:
            raise self._fault(f"metadata {name_list(missing)} missing")
        metadata: dict[str, Any] = {}
        for name, text in raw.items():
            try:
                metadata[name] = text if name in _PLAIN else json.loads(text)
            except ValueError as error:
                raise self._fault(f"metadata '{name}' is not JSON ({error})") from error
        for name, kind in (("rows", dict), ("shared", dict), ("examples", int), ("batches", int)):
            if not isinstance(metadata[name], kind):
                raise self._fault(f"metadata '{name}' is {metadata[name]!r}, expected {kind.__name__}")
        unseen = metadata.get("unseen", {})
        if not isinstance(unseen, dict) or not all(
            isinstance(width, int) and 0 < width <= _WIDEST and layer not in metadata["shared"]
            for layer, width in unseen.items()
        ):
            raise self._fault(f"metadata 'unseen' is {str(unseen)[:200]}, expected widths of layers without rows")
        return metadata

    def _check_tensors(self) -> None:
        """Raise if tensors and metadata do not fit together."""
        of_matrices = self.types[self.metadata["kind"]].is_of_matrices
        if self.form not in FORMS or (self.form != "full" and not of_matrices):
            raise self._fault(f"its matrices have the form {self.form!r}, this program reads {', '.join(FORMS)}")
        tensors = set(self._file.keys())
        leaders = sorted({str(leader) for leader in self.shared.values()})
        expected = {tensor for leader in leaders for tensor in tensor_names(leader, self.form)}
        if absent := sorted(expected - tensors):
            raise self._fault(f"tensor {name_list(absent)} missing")
        unknown = sorted(tensors - expected) + [leader for leader in leaders if self.shared.get(leader) != leader]
        if unknown:
            raise self._fault(f"tensor {name_list(unknown)} not in metadata 'shared'")
        stored = self.types[self.metadata["kind"]].stored_types
        for name in sorted(tensors):
            if (dtype := self._file.get_slice(name).get_dtype()) not in stored:
                raise self._fault(f"tensor '{name}' is {dtype}, expected {' or '.join(stored)}")
        if of_matrices:
            for name in leaders:
                self._check_matrix(name)

    def _check_matrix(self, name: str) -> None:
        """Raise for a Gram matrix that is not square, or whose number of rows is not told."""
        fault = shape_fault(name, self.form, lambda tensor: list(self._file.get_slice(tensor).get_shape()))
        if fault is not None:
            raise self._fault(fault)
        rows = self.metadata["rows"].get(name)
        if not isinstance(rows, int) or rows < 1:
            raise self._fault(f"metadata 'rows' has {rows!r} for '{name}', expected a positive number")


class LayerFile(StatisticsFile):
    """A file of statistics of layers."""

    @property
    def layers(self) -> list[str]:
        """The names of all layers, those that share another layer's statistics and those without rows included."""
        return list(self.shared)

    @property
    def rows(self) -> dict[str, int]:
        """By leading layer, the number of rows that its statistics are the mean of."""
        return dict(self.metadata["rows"])


class MatrixFile(LayerFile):
    """A file of symmetric matrices of layers; a matrix is read when it is asked for."""

    is_of_matrices = True

    @property
    def layers(self) -> list[str]:
        """The names of all layers, those that share another layer's matrix and those without rows included."""
        return [*self.shared, *self.unseen]

    @property
    def unseen(self) -> dict[str, int]:
        """Of experts that no token was sent to, by layer, the number of inputs."""
        unseen: dict[str, int] = self.metadata.get("unseen", {})
        return unseen

    def width(self, layer: str) -> int:
        """The width of the matrix of ``layer``, without reading it.

        Raises:
            StatisticsError: if the file has none for this layer.
        """
        if layer in self.unseen:
            return self.unseen[layer]
        size = super().shape(layer)[0]
        return (packed_width(size) or 0) if self.form == "packed" else size

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape ``[width, width]`` of the matrix of layer ``name``, whatever its form, without reading it."""
        return (self.width(name),) * 2

    def matrix(self, layer: str) -> Tensor:
        """The matrix of ``layer``: float32, symmetric, the mean over rows.

        Raises:
            StatisticsError: if the file has none for this layer.
        """
        if layer in self.unseen:
            return torch.zeros(self.unseen[layer], self.unseen[layer])
        return self.read(layer)


def check_finite(path: str | os.PathLike[str]) -> None:
    """Read all tensors of a statistics file of any kind and raise if one holds NaN or infinity.

    Raises:
        StatisticsError: naming the file and the tensors; also for a file that cannot be read.
    """
    with StatisticsFile(path) as file:
        file.check_finite()


def write_matrices(
    path: str | os.PathLike[str],
    matrices: Mapping[str, Tensor],
    header: Mapping[str, object],
    metadata: Mapping[str, Json],
    *,
    form: Form = "full",
    rank: int | None = None,
) -> None:
    """Write symmetric matrices to ``path``, atomically.

    Args:
        path: the file; an existing one is replaced.
        matrices: by leading layer.
        header: see `write_statistics`.
        metadata: see `write_statistics`.
        form: in which form, see `regmean_lab.statistics.forms`: "full", "packed", "diagonal" or "low_rank".
        rank: of "low_rank".

    Raises:
        StatisticsError: as `write_statistics` does; for another form, or a rank where there is none.
    """
    header = {**header, **form_header(form, rank)}
    tensors: dict[str, Tensor] = {}
    for name, matrix in matrices.items():
        tensors.update(to_form(name, matrix.detach(), form, rank))
    write_statistics(path, tensors, header, metadata)


def write_statistics(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    header: Mapping[str, object],
    metadata: Mapping[str, Json],
    *,
    dtype: torch.dtype | None = torch.float32,
) -> None:
    """Write tensors and metadata to a temporary name beside ``path``, then rename.

    Args:
        path: the file; an existing one is replaced.
        tensors: stored in ``dtype``.
        header: the metadata of the format: ``kind``, ``rows``, ``shared``, ``examples``, ``batches`` and what else a
            kind has.
        metadata: ``data_fingerprint`` (a string, empty by default), ``settings`` (by default empty) and anything else
            worth keeping.
        dtype: of the stored tensors; None is each one's own.

    Raises:
        StatisticsError: if ``metadata`` uses a name of the format, or holds something that JSON does not.
        DiskShortage: where there is no room for the file.
    """
    path = Path(path)
    encoded = encoded_metadata(header, metadata)
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    with new_file(path, f"{header.get('kind', '')} statistics".lstrip(), size) as temporary:
        save_file(stored, temporary, metadata=encoded)
        share(temporary)


def encoded_metadata(header: Mapping[str, object], metadata: Mapping[str, Json]) -> dict[str, str]:
    """The metadata of a file as the format has it: see `write_statistics`.

    Raises:
        StatisticsError: if ``metadata`` uses a name of the format, or holds something that JSON does not.
    """
    reserved = {"format", "version", "form", "rank", *header}
    clash = sorted(reserved & set(metadata))
    if clash:
        raise StatisticsError(f"metadata {name_list(clash)}: the name belongs to the format, use another")
    content: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "data_fingerprint": "",
        "settings": {},
        **header,
        **metadata,
    }
    encoded: dict[str, str] = {}
    for name, value in content.items():
        if name in _PLAIN:
            if not isinstance(value, str):
                raise StatisticsError(f"metadata '{name}' is {value!r}, expected a string")
            encoded[name] = value
            continue
        try:
            encoded[name] = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StatisticsError(f"metadata '{name}' cannot be written as JSON: {error}") from error
    return encoded


def form_header(form: Form, rank: int | None) -> dict[str, object]:
    """What the header of a file of matrices tells of their form.

    Raises:
        StatisticsError: for another form, or a rank where there is none.
    """
    check_form(form, rank)
    return {**({} if form == "full" else {"form": form}), **({} if rank is None else {"rank": rank})}

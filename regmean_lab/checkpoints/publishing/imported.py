"""Gram matrices that another program has measured, as statistics of a model: each checked against the model's layers.

They come as a pickle of tensors by layer (``gram.pkl``), as the authors of RegMean publish them for Llama-3-8B:
https://github.com/AuCson/RegMean-LLama3-8B. It is converted in a process of its own that builds tensors and nothing
else (:mod:`regmean_lab.models.convert_pickled`); here are safetensors alone, one matrix at a time.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from regmean_lab.checkpoints.publishing.collect import Publication, found_file, provenance, tells
from regmean_lab.checkpoints.publishing.collect_problems import MATRICES_KIND as KIND
from regmean_lab.models.headers import read_header
from regmean_lab.prepare.base import PrepareError
from regmean_lab.prepare.model import convert_apart
from regmean_lab.statistics import KINDS, StatisticsError
from regmean_lab.statistics.gram_faults import gram_fault
from regmean_lab.statistics.store import write_matrices
from regmean_lab.utils.files import file_sha256
from regmean_lab.utils.names import abbreviated, nearest, unwrapped

SHOWN = 20
"""At most so many faults are listed."""

log = logging.getLogger(__name__)


@dataclass
class _Matrices(Mapping[str, Tensor]):
    """Matrices by layer, read from a file each when they are asked for: float32, exactly symmetric.

    Attributes:
        files: by layer, its file.
        shared: by layer, the first one whose matrix is the same, bit for bit.
    """

    files: dict[str, Path] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> Tensor:
        matrix = self.stored(layer).float()
        return matrix.add(matrix.T).div_(2)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self.shared.values()))

    def __len__(self) -> int:
        return len(set(self.shared.values()))

    def stored(self, layer: str) -> Tensor:
        """A matrix as it was given."""
        (matrix,) = load_file(self.files[layer]).values()
        return matrix


def import_gram(
    source: Path, widths: Mapping[str, int], publication: Publication, rows: int | None, *, force: bool = False
) -> str:
    """Write Gram matrices that another program has measured as the statistics of a model, unless they are there.

    Args:
        source: the file: a pickle of matrices ``[in, in]`` by layer, means of ``x xᵀ``, by ``torch.save`` or
            ``pickle.dump``.
        widths: of each layer that must have a matrix, the number of its inputs.
        publication: where and how they are written.
        rows: of how many rows each matrix is the mean; None where that is not known.
        force: convert again what is there.

    Returns:
        ``found`` or ``converted``.

    Raises:
        StatisticsError: when the file cannot be read, or with everything in it that is not as it should be.
    """
    kind, path = KINDS[KIND], publication.path(KIND)
    form, rank = publication.form_of(KIND)
    imported = {"file": source.name, "sha256": file_sha256(source), "rows": rows}
    settings: dict[str, Any] = {"kind": KIND, **publication.described, "imported": imported}
    settings["exclude_layers"] = list(publication.excluded)
    found = None if force else found_file(path, kind, settings, publication.model)
    if found is not None and (found.form, found.metadata.get("rank")) == (form, rank) and tells(found, publication):
        log.info("found %s", path)
        return "found"
    if rows is not None:
        publication.refuse(publication.shortages(dict.fromkeys(widths, rows), widths), kind, before=True)
    publication.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".matrices-", dir=publication.folder) as folder:
        try:
            convert_apart(source, Path(folder))
        except PrepareError as error:
            raise StatisticsError(str(error)) from None
        matrices, faults = _checked(Path(folder), widths)
        if faults:
            shown = faults[:SHOWN] + ([f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else [])
            raise StatisticsError(f"{source}: these are not the model's Gram matrices:\n  - " + "\n  - ".join(shown))
        leaders = list(matrices)
        header = {"kind": KIND, "rows": dict.fromkeys(leaders, rows or 1), "shared": matrices.shared}
        known = {layer: widths[layer] for layer in leaders} if rows is not None else {}
        metadata = {"settings": settings, "collected": provenance(publication, known)}
        write_matrices(path, matrices, {**header, "examples": 0, "batches": 0}, metadata, form=form, rank=rank)
    log.info("converted %s to %s", source, path)
    return "converted"


def _checked(folder: Path, widths: Mapping[str, int]) -> tuple[_Matrices, list[str]]:
    """The matrices in a folder of converted tensors, and everything that is not as it should be."""
    matrices, faults = _Matrices(), list[str]()
    digests: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        ((name, entry),) = read_header(path).items()
        layer = next(
            (one for one in (name, unwrapped(name), unwrapped(name).removesuffix(".weight")) if one in widths), None
        )
        if layer is None:
            near = nearest(name, widths, most=1)
            faults.append(f"{name[:200]}: the model has no such linear layer{f', but {near[0]}' if near else ''}")
            continue
        if layer in matrices.files:
            faults.append(f"{layer}: there are two matrices for it")
            continue
        matrices.files[layer] = path
        width = widths[layer]
        if entry.shape != (width, width):
            size = " × ".join(map(str, entry.shape)) or "a single number"
            faults.append(f"{layer}: of size {size}, and the layer has {width} inputs: expected {width} × {width}")
            continue
        matrix = matrices.stored(layer)
        fault = gram_fault(matrix) if matrix.is_floating_point() else f"its numbers are {matrix.dtype}"
        if fault is not None:
            faults.append(f"{layer}: {fault}")
            continue
        digests[layer] = hashlib.sha256(matrix.flatten().view(torch.uint8).numpy().data).hexdigest()
    if lacking := [layer for layer in widths if layer not in matrices.files]:
        faults.append(
            f"nothing for {abbreviated(lacking)}; if they are to be averaged, leave them out: "
            f"exclude_layers=[{','.join(lacking[:3])}{',…' if len(lacking) > 3 else ''}]"
        )
    # In the model's order, so that of layers with the same matrix the first one leads.
    first: dict[str, str] = {}
    matrices.shared = {layer: first.setdefault(digests[layer], layer) for layer in widths if layer in digests}
    return matrices, faults

"""Weights under a model's parameter names, some assembled from several stored tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regmean_lab.checkpoints.names import Conversion, StoredNames, convert
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.weights import StoredWeights

if TYPE_CHECKING:
    from regmean_lab.checkpoints.architecture import Architecture


class ConvertedWeights(StoredWeights):
    """What files hold of a model's tensors, by the model's names.

    A tensor that stacks others (the experts of a mixture) is read one row of it at a time, so that no more than one of
    the stored tensors of each kind is in memory beside it. What other rules make is made whole and then cut.

    Args:
        files: the stored tensors.
        names: what they are for the model.
        architecture: of the model, whose configuration some rules read.
    """

    def __init__(self, files: FileWeights, names: StoredNames, architecture: Architecture) -> None:
        self.files = files
        self.names = names
        self.architecture = architecture

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor, or put it together."""
        if (stored := self.names.plain.get(name)) is not None:
            return self.files[stored]
        conversion = self.names.converted[name]
        shape = conversion.shapes[name]
        if not _is_stacked(conversion, name):
            return self._made(conversion, name)
        value = torch.empty(shape, dtype=conversion.dtypes[name])
        for row in range(shape[0]):
            value[row] = self.rows(name, row, row + 1)[0]
        return value

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name; reads none."""
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors."""
        return iter(self.names.found)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.names.plain) + len(self.names.converted)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        stored = self.names.plain.get(name)
        return self.files.shape(stored) if stored is not None else self.names.converted[name].shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor as stored."""
        stored = self.names.plain.get(name)
        return self.files.dtype(stored) if stored is not None else self.names.converted[name].dtypes[name]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read some rows of one tensor."""
        if (stored := self.names.plain.get(name)) is not None:
            return self.files.rows(stored, start, stop)
        conversion = self.names.converted[name]
        if _is_stacked(conversion, name) and stop > start:
            chosen = {pattern: stored[start:stop] for pattern, stored in conversion.parts.items()}
            return self._converted(conversion, chosen)[name]
        if (offset := _offset(conversion, name)) is not None:
            ((stored,),) = conversion.parts.values()
            return self.files.rows(stored, offset + start, offset + stop)
        return self._made(conversion, name)[start:stop]

    def _made(self, conversion: Conversion, name: str) -> Tensor:
        return self._converted(conversion, conversion.parts)[name]

    def _converted(self, conversion: Conversion, parts: object) -> dict[str, Tensor]:
        assert isinstance(parts, dict)
        read = {pattern: [self.files[stored] for stored in names] for pattern, names in parts.items()}
        try:
            return convert(conversion.converter, conversion.name, read, self.architecture.model)
        except Exception as error:  # whatever an operation of transformers raises
            raise MergeError(f"{conversion.name}: cannot be put together from the stored tensors ({error})") from None


def _is_stacked(conversion: Conversion, name: str) -> bool:
    """Whether row i of a tensor is made of the i-th stored tensor of each kind alone."""
    from transformers.core_model_loading import Concatenate, Interleave, MergeModulelist, Transpose

    first, *others = conversion.converter.operations
    along = {
        Concatenate: lambda operation: (operation.dim,),
        Interleave: lambda operation: (operation.dim,),
        Transpose: lambda operation: (operation.dim0, operation.dim1),
    }
    return (
        type(first) is MergeModulelist
        and first.dim == 0
        and len(conversion.shapes) == 1
        and all(type(part) in along and min(along[type(part)](part)) > 0 for part in others)
        and all(len(stored) == conversion.shapes[name][0] for stored in conversion.parts.values())
    )


def _offset(conversion: Conversion, name: str) -> int | None:
    """The first row of a tensor in the one stored tensor that it is a block of rows of, or None if it is no such."""
    from transformers.core_model_loading import Chunk, Split

    first, *others = conversion.converter.operations
    if others or not isinstance(first, Chunk | Split) or first.dim != 0:
        return None
    if [len(stored) for stored in conversion.parts.values()] != [1]:
        return None
    before = list(conversion.shapes)[: list(conversion.shapes).index(name)]
    return sum(conversion.shapes[other][0] for other in before)

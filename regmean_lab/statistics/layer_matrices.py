"""Symmetric matrices of a model's layers, one a layer, as statistics of several kinds are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .errors import StatisticsError, name_list


@dataclass(frozen=True)
class LayerMatrices:
    """A matrix for each layer.

    Attributes:
        matrices: by layer, ``[width, width]``, symmetric.
        rows: by layer, the number of rows that its matrix is the mean of.
        examples: number of examples seen.
        batches: number of batches seen.
    """

    title: ClassVar[str]
    """What messages call a matrix."""

    matrices: dict[str, Tensor]
    rows: dict[str, int]
    examples: int
    batches: int

    @property
    def layers(self) -> list[str]:
        """The names of all layers."""
        return list(self.matrices)

    def matrix(self, layer: str) -> Tensor:
        """The matrix ``[width, width]`` of ``layer``.

        Raises:
            StatisticsError: if there is none for this layer.
        """
        if layer not in self.matrices:
            raise StatisticsError(f"no {self.title} of layer '{layer}'; there are {name_list(self.matrices)}")
        return self.matrices[layer]

    def header(self) -> dict[str, object]:
        """What a file of them says of all matrices, whatever the kind."""
        return {
            "rows": self.rows,
            "shared": {layer: layer for layer in self.layers},
            "examples": self.examples,
            "batches": self.batches,
        }

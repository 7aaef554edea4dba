"""Members for tests of merging: weights and statistics that are plain dicts of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeMember, MergeMethod, merge_members


@dataclass(frozen=True)
class Grams:
    """Gram matrices by layer."""

    matrices: Mapping[str, Tensor]

    def matrix(self, layer: str) -> Tensor:
        return self.matrices[layer]


@dataclass(frozen=True)
class Fishers:
    """Diagonal Fisher information by parameter."""

    diagonals: Mapping[str, Tensor]

    def diagonal(self, parameter: str) -> Tensor:
        return self.diagonals[parameter]


class Recorded(Mapping[str, Tensor]):
    """Weights that remember which tensors were read."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        self.read.append(name)
        return self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


LAYOUT = Layout(
    {"block.0.dense.weight": LinearLayer("block.0.dense"), "head.weight": LinearLayer("head")},
    frozenset({"head.weight", "head.bias"}),
)
"""Of the models that `random_member` makes: two linear layers, the second of which has a row for each label."""

SHAPES = {
    "embedding.weight": (7, 4),
    "block.0.dense.weight": (5, 4),
    "block.0.dense.bias": (5,),
    "norm.weight": (5,),
    "head.weight": (6, 5),
    "head.bias": (6,),
}


def random_member(
    seed: int, *, name: str = "", dtype: torch.dtype = torch.float64, annotated: tuple[bool, ...] | None = None
) -> MergeMember:
    """A member with random weights, Gram matrices of 40 random rows, and random Fisher information."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for key, shape in SHAPES.items()
    }
    grams = {}
    for layer, size in (("block.0.dense", 4), ("head", 5)):
        rows = torch.randn(40, size, generator=generator, dtype=torch.float64)
        grams[layer] = rows.T @ rows / len(rows)
    fishers = {key: torch.rand(shape, generator=generator, dtype=torch.float64) for key, shape in SHAPES.items()}
    return MergeMember(name or f"member {seed}", weights, Grams(grams), Fishers(fishers), annotated)


def merged(method: MergeMethod, members: list[MergeMember], layout: Layout = LAYOUT) -> dict[str, Tensor]:
    """All merged parameters by name."""
    return {parameter.name: parameter.value for parameter in merge_members(method, members, layout)}

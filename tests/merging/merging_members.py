"""Members for tests of merging: weights and statistics that are plain dicts of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
class GradientGrams(Grams):
    """Gram matrices of gradients by layer."""

    @property
    def layers(self) -> list[str]:
        return list(self.matrices)


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
    """A member with random weights, Gram matrices of 40 random rows of both kinds, and random Fisher information."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for key, shape in SHAPES.items()
    }
    grams = {layer: random_gram(size, generator) for layer, size in (("block.0.dense", 4), ("head", 5))}
    fishers = {key: torch.rand(shape, generator=generator, dtype=torch.float64) for key, shape in SHAPES.items()}
    gradients = {layer: random_gram(size, generator) * 1e-9 for layer, size in (("block.0.dense", 5), ("head", 6))}
    return MergeMember(
        name or f"member {seed}", weights, Grams(grams), Fishers(fishers), annotated, GradientGrams(gradients)
    )


def random_gram(size: int, generator: torch.Generator) -> Tensor:
    """The Gram matrix of 40 random rows."""
    rows = torch.randn(40, size, generator=generator, dtype=torch.float64)
    return rows.T @ rows / len(rows)


BASE = {name: value for name, value in random_member(4711).weights.items() if not name.startswith("head")}
"""Weights of the model that members were trained from, which has no head."""


def merged(
    method: MergeMethod,
    members: list[MergeMember],
    layout: Layout = LAYOUT,
    base: Mapping[str, Tensor] | None = BASE,
) -> dict[str, Tensor]:
    """All merged parameters by name."""
    return {part.name: part.value for part in merge_members(method, members, layout, base=base)}


def single(method: MergeMethod, tensors: Sequence[Tensor], base: Tensor, *, transposed: bool = False) -> Tensor:
    """The merge of models that are one linear layer with the weight ``layer.weight``."""
    layout = Layout({"layer.weight": LinearLayer("layer", transposed)})
    members = [MergeMember(f"member {i}", {"layer.weight": tensor}) for i, tensor in enumerate(tensors)]
    return merged(method, members, layout, {"layer.weight": base})["layer.weight"]


def normal(seed: int, *shape: int) -> Tensor:
    """Random numbers of the standard normal distribution, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

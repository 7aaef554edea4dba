"""Model Stock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.parameters import LayerDiagnostics, Parameter
from regmean_lab.merging.pieces import Pieces, inner_products_of, surveyed
from regmean_lab.merging.task_vectors import task_vectors


@register_method("model_stock")
@dataclass
class ModelStock(MergeMethod):
    """A point between the pretrained model and the mean, set by the angle between the members' task vectors.

    θ = t θ̄ + (1 − t) θ₀ with t = n cos φ / (1 + (n − 1) cos φ) (Jang, Yun and Han, ECCV 2024).

    θ̄ is the mean of the n members and φ the angle between their task vectors, for each parameter on its own; with more
    than two members cos φ is the mean over all pairs. A cosine below 0, which the derivation excludes, counts as 0: the
    result is then the base. A parameter that the base model does not have is averaged. Members count alike.

    Attributes:
        by_row: φ is found of each row of a parameter.
    """

    elementwise: ClassVar[bool] = True

    by_row: bool = False

    @property
    def needs_base(self) -> bool:
        """The model that the members were trained from."""
        return True

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if self.coefficients is not None:
            found.append("coefficients: model_stock finds the weights itself; expected null")
        return found

    @override
    def survey(self, pieces: Pieces) -> float | None:
        """T of the whole parameter; None where it is found of each row, or there is no base."""
        whole = pieces.whole
        if whole.base is None or self._of_rows(whole):
            return None
        return _share(len(whole.members), max(0.0, mean_cosine(inner_products_of(pieces, task_vectors))))

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """A point between the base and the mean, nearer to the mean where the members moved alike."""
        mean, base, count = parameter.mean(), parameter.base, len(parameter.tensors)
        if base is None or count == 1:  # one: the row of a label that only its data annotates
            return mean, None
        if self._of_rows(parameter):
            cosines = mean_cosines(task_vectors(parameter)).clamp(min=0)
            share = _share(count, cosines).to(mean.dtype).to(mean.device)
            return torch.lerp(base, mean, share.reshape(-1, *[1] * (base.dim() - 1))), None
        return torch.lerp(base, mean, surveyed(self, parameter).known), None

    def _of_rows(self, parameter: Parameter) -> bool:
        return self.by_row and parameter.base is not None and parameter.base.dim() > 1


Number = TypeVar("Number", float, Tensor)


def _share(count: int, cosine: Number) -> Number:
    """t, by how many members and what cosine there are."""
    return count * cosine / (1 + (count - 1) * cosine)


def mean_cosine(products: Tensor) -> float:
    """Mean of the cosines of the angles between all pairs of two or more vectors; that with a zero vector is 0.

    Args:
        products: their inner products, float64 [vectors, vectors].
    """
    norms = products.diagonal().sqrt()
    norms[norms == 0] = 1
    cosines = (products / norms.outer(norms)).triu(1)
    return float(cosines.sum()) / math.comb(len(products), 2)


def mean_cosines(vectors: Sequence[Tensor]) -> Tensor:
    """`mean_cosine` of each row of two or more tensors, float64 [rows]."""
    rows = torch.stack([vector.flatten(1).cpu().double() for vector in vectors])
    rows = rows / torch.linalg.vector_norm(rows, dim=2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    products = torch.einsum("irk,jrk->rij", rows, rows).triu(1)
    return products.sum(dim=(1, 2)) / math.comb(len(vectors), 2)

"""Task vectors: what fine-tuning changed, τ = θ − θ₀ with θ₀ the model that all members were trained from.

What the methods that merge task vectors share: the parameters that they leave alone, trimming, and the election of
signs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.free_weights import FreeWeights, divisor
from regmean_lab.merging.parameters import LayerDiagnostics, LinearLayer, MergeError, Parameter
from regmean_lab.merging.pieces import Pieces, surveyed
from regmean_lab.utils.checks import one_of, positive

COMBINATIONS = ("linear", "ties")


@dataclass
class TaskVectorMethod(MergeMethod):
    """Base of methods that merge task vectors: θ = θ₀ + ``scaling`` · (the merged task vector).

    A parameter that the base model does not have, such as a new head, has no task vector: it is averaged.

    Attributes:
        scaling: factor on the merged task vector.
    """

    scaling: float = 1.0

    @property
    def needs_base(self) -> bool:
        """The model that the members were trained from."""
        return True

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if self.free_weights is None:
            positive("scaling", self.scaling, found)
        elif not math.isfinite(self.scaling):
            found.append(f"scaling: expected a number, got {self.scaling}")
        return found


@dataclass
class ElementwiseMethod(FreeWeights, TaskVectorMethod):
    """Base of methods that merge task vectors element by element, whatever the parameter.

    With `FreeWeights`, one task vector is enough: a negative weight takes it out of the base, one above 1 goes beyond
    the member.
    """

    elementwise: ClassVar[bool] = True

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The base plus the scaled merged task vector; the mean of a parameter without a base."""
        base = parameter.base
        if base is None:
            return parameter.mean(), None
        return base + self.scaling * self.merge_vectors(surveyed(self, parameter), task_vectors(parameter)), None

    @property
    @override
    def surveys(self) -> bool:
        return type(self).survey_vectors is not ElementwiseMethod.survey_vectors

    def survey(self, pieces: Pieces) -> Any:
        """What merging pieces takes of the whole parameter; nothing of one without a base."""
        return None if pieces.whole.base is None else self.survey_vectors(pieces)

    def survey_vectors(self, pieces: Pieces) -> Any:
        """What merging pieces takes of the whole task vectors of a parameter."""
        return None

    @abstractmethod
    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """Merge the members' task vectors of one parameter.

        Args:
            parameter: the parameter.
            vectors: one task vector a member, of the parameter's shape.
        """

    def combined(self, vectors: Sequence[Tensor], parameter: Parameter, *, elect: bool, mean: bool = True) -> Tensor:
        """The members' task vectors as one.

        Args:
            vectors: one a member.
            parameter: the parameter.
            elect: of each element only the values that have the elected sign count, see `elect_and_average`.
            mean: without election and without `weights`: the weighted mean, not the sum.
        """
        if parameter.factors is None:
            if elect:
                return elect_and_average(vectors, parameter.weights)
            return weighted_sum(vectors, parameter.coefficients if mean else parameter.weights)
        normalize = elect if self.normalize is None else self.normalize
        if elect:
            return elect_and_average(vectors, parameter.factors, normalize=normalize)
        total = weighted_sum(vectors, parameter.factors)
        return total.div_(divisor(parameter.factors)) if normalize else total


@dataclass
class MatrixMethod(TaskVectorMethod):
    """Base of methods that merge the task matrices of linear layers.

    All other parameters (embeddings, biases, normalisations) are averaged, and so is a layer that the base model does
    not have, such as a new head.
    """

    by_layer: ClassVar[bool] = True

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The base plus the scaled merged task matrix of a linear layer; the mean of any other parameter."""
        layer, base = parameter.layer, parameter.base
        if base is None or layer is None:
            return parameter.mean(), None
        try:
            merged = self.merge_matrices([oriented(part, layer) for part in task_vectors(parameter)], parameter.weights)
        except ValueError as error:
            raise MergeError(f"{parameter.name}: the task matrices cannot be merged: {error}") from None
        return base + self.scaling * oriented(merged, layer), None

    @abstractmethod
    def merge_matrices(self, matrices: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Merge the members' task matrices of one linear layer.

        Args:
            matrices: one a member, shape [out, in].
            weights: one a member; they add up to the number of members.

        Returns:
            Shape [out, in].

        Raises:
            ValueError: when a decomposition does not converge.
        """


def task_vectors(parameter: Parameter) -> list[Tensor]:
    """What each member's training changed in a parameter that has a base."""
    assert parameter.base is not None
    return [tensor - parameter.base for tensor in parameter.tensors]


def oriented(matrix: Tensor, layer: LinearLayer) -> Tensor:
    """A layer's weight with its outputs first, shape [out, in], from how it is stored; and back again."""
    return matrix.T if layer.transposed else matrix


def weighted_sum(vectors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum of tensors of one shape, each times its weight."""
    first, *others = vectors
    total = first * weights[0]
    for vector, weight in zip(others, weights[1:], strict=True):
        total.add_(vector, alpha=weight)
    return total


def elect_and_average(vectors: Sequence[Tensor], weights: Sequence[float], *, normalize: bool = True) -> Tensor:
    """Elect a sign for each element and average the values that have it: steps 2 and 3 of TIES (Yadav et al., 2023).

    The sign is that of the weighted sum; where it is zero no sign wins, and the result is zero. Values that are zero
    have no vote and no part in the mean. A value's sign is that of the value times its weight.

    Args:
        vectors: one a member, equal shapes.
        weights: one a member, of any sign.
        normalize: divide by the sum of the weights of the values that count; otherwise their weighted sum.
    """
    elected = weighted_sum(vectors, weights).sign_()
    total, weight_sum = torch.zeros_like(elected), torch.zeros_like(elected)
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = (vector * (elected if weight >= 0 else -elected) > 0).to(vector.dtype)
        total.addcmul_(vector, agrees, value=weight)
        weight_sum.add_(agrees, alpha=weight)
    if not normalize:
        return total
    return total.div_(weight_sum.add_(weight_sum == 0))


def combination_problems(how: str, found: list[str]) -> None:
    """Append a message to ``found`` unless ``how`` is a way to combine task vectors."""
    one_of("then", how, COMBINATIONS, found)


def drop_and_rescale(vector: Tensor, numbers: Tensor, drop_rates: Tensor | float, *, rescale: bool = True) -> Tensor:
    """Set elements to zero with the probability ``drop_rates``, and divide the others by 1 − ``drop_rates``.

    Args:
        vector: what is thinned out.
        numbers: uniform random numbers from 0 to 1, of the same shape, dtype and device.
        drop_rates: below 1; one for each element, or one for all.
        rescale: divide those that stay.
    """
    kept = vector / (1 - drop_rates) if rescale else vector
    return kept * (numbers >= drop_rates)  # several times faster than torch.where, which branches at each element


def keep_above(vector: Tensor, threshold: float) -> Tensor:
    """A vector with all magnitudes below a threshold (of float32) set to zero."""
    return vector * (vector.abs().float() >= threshold)

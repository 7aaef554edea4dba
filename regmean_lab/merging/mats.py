"""MaTS: matching models in their task parameter subspaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.linear_algebra import conjugate_gradient, scale_off_diagonal, solve_dtype
from regmean_lab.merging.parameters import LayerDiagnostics, MergeError, MergeMember, Parameter
from regmean_lab.merging.task_vectors import oriented
from regmean_lab.utils.checks import at_least_one, fraction, one_of, positive

STARTS = ("mean", "base")


@register_method("mats")
@dataclass
class Mats(MergeMethod):
    """As RegMean, but weighted by the gradients at the layers' outputs as well.

    Σ Gᵢ W Hᵢ = Σ Gᵢ Wᵢ Hᵢ for every linear layer, the mean for all else (Tam, Bansal and Raffel, TMLR 2024).

    Wᵢ is a member's weight as [in, out], Gᵢ the Gram matrix of the layer's inputs and Hᵢ that of the gradients at its
    outputs: Gᵢ ⊗ Hᵢ is the Kronecker-factored approximation of the layer's block of the Fisher information (Martens and
    Grosse, ICML 2015). With all Hᵢ the same this is RegMean. The system has no closed form; conjugate gradients go some
    way from ``start`` towards its solution, and leave what no member's data tells as it is at the start. A layer
    without statistics of its outputs, because there are too many, is averaged. While a layer is merged, the matrices of
    all members are in memory.

    Attributes:
        iterations: most steps of conjugate gradients for a layer.
        tolerance: stop when the residual is so much of what it is for the mean.
        start: ``mean``, or ``base``, the model that the members were trained from (the mean, where it has no such
            layer).
        off_diagonal: factor on the off-diagonal entries of Gᵢ and Hᵢ; 1 leaves them.
    """

    by_layer: ClassVar[bool] = True

    iterations: int = 100
    tolerance: float = 1e-5
    start: str = "mean"
    off_diagonal: float = 1.0

    @property
    def statistics(self) -> tuple[str, ...]:
        """Gram matrices of every member's inputs and of the gradients at its outputs."""
        return ("gram", "gradient_gram")

    @property
    def needs_base(self) -> bool:
        """The model that the members were trained from, to start there."""
        return self.start == "base"

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        at_least_one("iterations", self.iterations, found)
        positive("tolerance", self.tolerance, found)
        one_of("start", self.start, STARTS, found)
        fraction("off_diagonal", self.off_diagonal, found)
        return found

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The weight of a linear layer that does best what each member's does; mean of any other parameter."""
        mean, layer = parameter.mean(), parameter.layer
        if layer is None or not _has_gradients(parameter.members, layer.name):
            return mean, None
        outputs, inputs = oriented(mean, layer).shape
        dtype = solve_dtype(mean.device, max(inputs, outputs))
        grams, gradients = [], []
        for member, weight in zip(parameter.members, parameter.weights, strict=True):
            gram = _matrix(member, "gram", layer.name, inputs).to(mean.device, dtype)
            gradient = _matrix(member, "gradient_gram", layer.name, outputs, parameter.rows).to(mean.device, dtype)
            grams.append(scale_off_diagonal(gram, self.off_diagonal) * weight)
            gradients.append(scale_off_diagonal(gradient, self.off_diagonal))
        # Gradients may be so small that their squares' squares are lost in float32.
        size = sum(float(gradient.diagonal().mean()) for gradient in gradients)
        if size == 0:
            return mean, None
        for gradient in gradients:
            gradient.div_(size)
        changes = [oriented((tensor - mean).to(dtype), layer).T for tensor in parameter.tensors]
        right = sum(gram @ part @ other for gram, part, other in zip(grams, changes, gradients, strict=True))
        assert isinstance(right, Tensor)
        start = torch.zeros_like(right)
        if self.start == "base" and parameter.base is not None:
            start = oriented((parameter.base - mean).to(dtype), layer).T

        def apply(weight: Tensor) -> Tensor:
            image = torch.zeros_like(weight)
            for gram, gradient in zip(grams, gradients, strict=True):
                image.add_(gram @ weight @ gradient)
            return image

        change = conjugate_gradient(apply, right, start, self.iterations, self.tolerance)
        return (mean.to(dtype) + oriented(change.T, layer)).to(mean.dtype), None


def _has_gradients(members: Sequence[MergeMember], layer: str) -> bool:
    """Whether the members have statistics of a layer's outputs: all, or none."""
    found = []
    for member in members:
        if member.gradient_gram is None:
            raise MergeError(f"member {member.name} has no Gram matrices of gradients, which mats needs")
        found.append(layer in member.gradient_gram.layers)
    if any(found) and not all(found):
        lacking = members[found.index(False)].name
        raise MergeError(f"layer {layer}: member {lacking} has no Gram matrix of gradients, others have")
    return all(found)


def _matrix(member: MergeMember, kind: str, layer: str, size: int, rows: Tensor | None = None) -> Tensor:
    """A member's statistics of a layer, shape [size, size]; of an output's chosen rows those among them."""
    source = member.gram if kind == "gram" else member.gradient_gram
    if source is None:
        raise MergeError(f"member {member.name} has no Gram matrices, which mats needs")
    matrix = source.matrix(layer)
    if rows is not None:
        chosen = rows.to(matrix.device)
        matrix = matrix[chosen][:, chosen]
    if matrix.shape != (size, size):
        raise MergeError(
            f"{kind} of {member.name} for layer {layer}: expected shape {(size, size)}, found {tuple(matrix.shape)}"
        )
    if not torch.isfinite(matrix).all():
        raise MergeError(f"{kind} of {member.name} for layer {layer}: NaN or infinity")
    return matrix

"""RegMean: regression means of linear layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regmean_lab.merging.base import (
    LayerDiagnostics,
    Layout,
    MergeError,
    MergeMember,
    MergeMethod,
    Parameter,
    matches,
    register_method,
)
from regmean_lab.merging.linear_algebra import (
    off_diagonal_share,
    scale_off_diagonal,
    solve_dtype,
    solve_positive,
)


@register_method("regmean")
@dataclass
class RegMean(MergeMethod):
    """W = (Σ Gᵢ)⁻¹ Σ Gᵢ Wᵢ for every linear layer, the mean for all else (Jin et al., ICLR 2023, equation 2).

    Wᵢ is a member's weight as [in, out] and Gᵢ = XᵢᵀXᵢ / n the Gram matrix of the layer's inputs on that member's
    data. The system is solved for the difference from the members' mean, W = W̄ + (Σ Gᵢ)⁻¹ Σ Gᵢ (Wᵢ − W̄), which is
    the same where the sum is regular, and leaves the mean where it is not: a feature that no member ever saw keeps the
    members' mean, and so does, under jitter, a direction that no member saw.

    Attributes:
        off_diagonal: factor α on the off-diagonal entries of Gᵢ; 1 leaves them, 0 is the same as ``diagonal``.
        diagonal: use only the diagonals of Gᵢ.
        exclude_layers: patterns of names of linear layers that are averaged instead.
    """

    off_diagonal: float = 0.9
    diagonal: bool = False
    exclude_layers: list[str] = field(default_factory=list)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Gram matrices of every member."""
        return ("gram",)

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        found = super().problems()
        if not (math.isfinite(self.off_diagonal) and 0 <= self.off_diagonal <= 1):
            found.append(f"off_diagonal: expected a number from 0 to 1, got {self.off_diagonal}")
        return found

    def prepare(self, members: Sequence[MergeMember], names: Sequence[str], layout: Layout) -> None:
        """Check that every pattern of ``exclude_layers`` names a linear layer."""
        layers = [layer.name for layer in layout.linear.values()]
        if unmatched := [text for text in self.exclude_layers if not any(matches(name, [text]) for name in layers)]:
            raise MergeError(f"method.exclude_layers: no linear layer matches {', '.join(unmatched)}")

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Regression mean of a linear layer's weight; mean of any other parameter."""
        mean = parameter.mean()
        if parameter.layer is None or matches(parameter.layer.name, self.exclude_layers):
            return mean, None
        if self.diagonal or self.off_diagonal == 0:
            return self._merge_diagonal(parameter, mean), None
        return self._merge_full(parameter, mean)

    def _merge_full(self, parameter: Parameter, mean: Tensor) -> tuple[Tensor, LayerDiagnostics]:
        assert parameter.layer is not None
        layer, transposed = parameter.layer.name, parameter.layer.transposed
        size = mean.shape[0] if transposed else mean.shape[1]
        dtype = entries = solve_dtype(mean.device, size)
        total = torch.zeros(size, size, dtype=dtype, device=mean.device)
        right = torch.zeros(size, mean.numel() // size, dtype=dtype, device=mean.device)
        for member, coefficient, tensor in zip(
            parameter.members, parameter.coefficients, parameter.tensors, strict=True
        ):
            stored = _gram(member, layer, size)
            if stored.dtype != torch.float64:
                entries = torch.float32  # in float64 they are as rough as they were
            gram = stored.to(mean.device, dtype)
            if self.off_diagonal != 1:
                gram = scale_off_diagonal(gram, self.off_diagonal)
            difference = tensor.to(dtype) - mean.to(dtype)
            weight = coefficient * len(parameter.members)
            total.add_(gram, alpha=weight)
            right.addmm_(gram, difference if transposed else difference.T, alpha=weight)
        share = off_diagonal_share(total)
        try:
            solution = solve_positive(total, right, entries)
        except ValueError as error:
            raise MergeError(
                f"layer {layer}: the sum of the members' Gram matrices cannot be solved: {error}"
            ) from None
        change = solution.value if transposed else solution.value.T
        merged = (mean.to(dtype) + change).to(mean.dtype)
        return merged, LayerDiagnostics(layer, solution.jitter, solution.condition, solution.unseen, share)

    def _merge_diagonal(self, parameter: Parameter, mean: Tensor) -> Tensor:
        assert parameter.layer is not None
        size = mean.shape[0] if parameter.layer.transposed else mean.shape[1]
        total = torch.zeros(size, dtype=mean.dtype, device=mean.device)
        change = torch.zeros_like(mean)
        for member, coefficient, tensor in zip(
            parameter.members, parameter.coefficients, parameter.tensors, strict=True
        ):
            weight = coefficient * _gram(member, parameter.layer.name, size).diagonal().to(mean)
            total.add_(weight)
            change.add_((tensor - mean) * (weight[:, None] if parameter.layer.transposed else weight))
        total[total == 0] = 1
        return mean + change / (total[:, None] if parameter.layer.transposed else total)


def _gram(member: MergeMember, layer: str, size: int) -> Tensor:
    if member.gram is None:
        raise MergeError(f"member {member.name} has no Gram matrices; regmean needs them for every member")
    matrix = member.gram.matrix(layer)
    if matrix.shape != (size, size):
        raise MergeError(
            f"Gram matrix of {member.name} for layer {layer}: expected shape {(size, size)}, "
            f"found {tuple(matrix.shape)}"
        )
    if not torch.isfinite(matrix).all():
        raise MergeError(f"Gram matrix of {member.name} for layer {layer}: NaN or infinity")
    return matrix

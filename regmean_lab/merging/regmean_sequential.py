"""Sequential RegMean: each layer of the merge maps its own inputs to the members' outputs on theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import matches, register_method
from regmean_lab.merging.linear_algebra import off_diagonal_share, solve_device, solve_positive
from regmean_lab.merging.member_tensors import MemberTensors
from regmean_lab.merging.movement import with_movement
from regmean_lab.merging.parameters import LayerDiagnostics, LinearLayer, MergeError, Parameter
from regmean_lab.merging.refining import LayerRows, RefinedLayer, RefiningMethod
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.row_groups import Rows, groups_of_rows
from regmean_lab.merging.task_vectors import oriented
from regmean_lab.statistics import add_gram_, mirror_upper_
from regmean_lab.utils.checks import one_of, positive

STARTS = ("regmean", "simple")


@register_method("regmean_sequential")
@dataclass
class RegMeanSequential(RefiningMethod, RegMean):
    """RegMean, and then layer after layer the W and b that map the merged model's inputs to the members' outputs.

    With X̃ᵢ the inputs of a layer in the merged model on the text of member i, through the layers that are replaced
    already, and Yᵢ the outputs of that layer in member i itself on the same text, W and b are those that minimise
    Σ ‖X̃ᵢ W + b − Yᵢ‖² / nᵢ + λ ‖W − V‖²: V is RegMean's weight, nᵢ the number of rows, and λ = ``damping`` times the
    mean diagonal entry of Σ X̃ᵢᵀX̃ᵢ / nᵢ. The bias is not held back, as an intercept in ridge regression never is. So a
    layer makes up for what the layers before it have got wrong. RegMean has all its settings; without text it is
    RegMean. It may begin with the mean instead, which needs no Gram matrices.

    Attributes:
        damping: how strongly a weight is held back at where it began.
        start: what it begins with: ``regmean``, or ``simple``, the mean of the members' weights.
    """

    own_passes: ClassVar[bool] = True
    without_gram: ClassVar[tuple[str, ...]] = ("method.start=simple", *RegMean.without_gram)

    damping: float = 0.1
    start: str = "regmean"

    @property
    def statistics(self) -> tuple[str, ...]:
        """Gram matrices for RegMean, and what pseudo-text is drawn from."""
        return (*(() if self.start == "simple" else super().statistics), *self.text_statistics)

    @override
    def problems(self) -> list[str]:
        found = super().problems() + self.text_problems()
        positive("damping", self.damping, found)
        one_of("start", self.start, STARTS, found)
        return found

    @override
    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        return (parameter.mean(), None) if self.start == "simple" else super().merge(parameter)

    def refines(self, layer: LinearLayer) -> bool:
        """All but the excluded layers."""
        return not matches(layer.name, self.exclude_layers)

    def solver(self, layer: RefinedLayer) -> _Solver:
        """Ridge regression of the layer's weight and bias."""
        return _Solver(self.damping, layer)


class _System:
    """The normal equations for some of a layer's outputs: mean over rows of [X̃ 1]ᵀ[X̃ 1] and of [X̃ 1]ᵀ(Y − Ỹ)."""

    def __init__(self) -> None:
        self.left: Tensor | None = None
        self.right: Tensor | None = None
        self._sums: tuple[Tensor, Tensor] | None = None

    def add(self, rows: Tensor, residual: Tensor) -> None:
        """Add some of a member's rows ``[rows, in + 1]`` and residuals ``[rows, out]``."""
        width = rows.shape[1]
        if self._sums is None:
            self._sums = rows.new_zeros(width, width), rows.new_zeros(width, residual.shape[1])
        left, right = self._sums
        add_gram_(left, rows)
        right.addmm_(rows.T, residual)

    def end_member(self, factor: float) -> None:
        """Multiply what was added of a member by a factor, and go on to the next one."""
        assert self._sums is not None
        left, right = (part.mul_(factor) for part in self._sums)
        self._sums = None
        self.left = left if self.left is None else self.left.add_(left)
        self.right = right if self.right is None else self.right.add_(right)

    def solve(self, damping: float, intercept: bool, layer: str) -> tuple[Tensor, LayerDiagnostics]:
        """What has to be added to weight and bias, shape [in + 1, out]."""
        assert self.left is not None and self.right is not None
        device = solve_device(self.left.device)
        left, entries = mirror_upper_(self.left).to(device, torch.float64), self.left.dtype
        inputs = left.diagonal()[:-1] if intercept else left.diagonal()
        share = off_diagonal_share(left)
        inputs.add_(damping * float(inputs.mean()))
        try:
            solution = solve_positive(left, self.right.to(device, torch.float64), entries)
        except ValueError as error:
            raise MergeError(f"layer {layer}: its system of equations cannot be solved: {error}") from None
        diagnostics = LayerDiagnostics(layer, solution.jitter, solution.condition, solution.unseen, share)
        return solution.value, diagnostics


class _Solver:
    def __init__(self, damping: float, layer: RefinedLayer) -> None:
        self._damping = damping
        self._layer = layer
        self._current = _oriented(layer, layer.merged)
        self._intercept = layer.bias in layer.merged
        outputs = len(self._current)
        groups = groups_of_rows(layer.weight, layer.members, layer.layout, None, outputs, None)
        if groups is None:
            groups = [Rows(tuple(range(len(layer.members))), list(range(outputs)))]
        # The row of a token that one member alone has stays that member's.
        self._outputs = {own.members: own.rows for own in groups if not (own.exact and len(own.members) == 1)}
        self._systems = {group: _System() for group in self._outputs}

    def add(self, member: int, batches: Iterable[LayerRows]) -> None:
        """Take up a member's rows, in the merged model and in itself."""
        systems = {group: system for group, system in self._systems.items() if member in group}
        count = 0
        for batch in batches:
            rows, residual = self._residual(member, batch)
            count += len(rows)
            for group, system in systems.items():
                outputs = self._outputs[group]
                system.add(rows, residual if len(outputs) == residual.shape[1] else residual[:, outputs])
        for group, system in systems.items():
            total = sum(self._layer.coefficients[number] for number in group)
            # Members that share a label may all have the coefficient 0.
            share = self._layer.coefficients[member] / total if total > 0 else 1 / len(group)
            system.end_member(share * len(group) / max(count, 1))

    def _residual(self, member: int, batch: LayerRows) -> tuple[Tensor, Tensor]:
        """[X̃ 1] and Y − Ỹ on a batch of a member's text."""
        rows, own = batch.merged, batch.own
        assert own is not None
        if own.shape != rows.shape:
            raise MergeError(
                f"layer {self._layer.layer.name}: {tuple(own.shape)} rows and features in "
                f"{self._layer.members[member].name} where the merged model has {tuple(rows.shape)}"
            )
        weights = self._layer.members[member].weights
        residual = own @ _oriented(self._layer, weights).to(own).T
        residual.sub_(rows @ self._current.to(rows).T)
        if self._intercept:
            bias, merged = weights[self._layer.bias], self._layer.merged[self._layer.bias]
            residual.add_(bias.detach().to(residual) - merged.to(residual))
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        return rows, residual

    def solve(self) -> tuple[dict[str, Tensor], LayerDiagnostics | None]:
        """The layer's weight and, where it has one that is merged, its bias."""
        layer, solved = self._layer, []
        weight = self._current.clone()
        bias = layer.merged[layer.bias].clone() if self._intercept else None
        for group, outputs in self._outputs.items():
            change, diagnostics = self._systems[group].solve(self._damping, self._intercept, layer.layer.name)
            inputs = weight.shape[1]
            weight[outputs] += change[:inputs].T.to(weight)
            if bias is not None:
                bias[outputs] += change[inputs].to(bias)
            solved.append(diagnostics)
        values = {layer.weight: oriented(weight, layer.layer)}
        if bias is not None:
            values[layer.bias] = bias
        if not solved:  # no token is shared
            return values, None
        worst = max(solved, key=lambda row: (row.jitter, row.condition))
        return values, worst if len(solved) > 1 else with_movement(worst, self._parameter(weight), weight)

    def _parameter(self, like: Tensor) -> Parameter:
        """The layer's weight in the members, as [out, in], in the dtype of the merged one; read one at a time."""

        def read(number: int) -> Tensor:
            return _oriented(self._layer, self._layer.members[number].weights).to(like)

        layer = self._layer
        tensors = MemberTensors(read(0), read, len(layer.members))
        return Parameter(layer.weight, tensors, layer.members, layer.coefficients, layer.layer)


def _oriented(layer: RefinedLayer, weights: Mapping[str, Tensor]) -> Tensor:
    """The layer's weight as [out, in]."""
    return oriented(weights[layer.weight].detach(), layer.layer)

"""RegMean++: regression means of the merged model's own inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import matches, register_method
from regmean_lab.merging.member_text import OWN, PSEUDO
from regmean_lab.merging.merge import merge_parameter
from regmean_lab.merging.parameters import LayerDiagnostics, LinearLayer, MergeInputs, Parameter
from regmean_lab.merging.refining import LayerRows, RefinedLayer, RefiningMethod
from regmean_lab.merging.regmean import GRAM_SOURCES, GRAMS, RegMean
from regmean_lab.statistics import add_gram_, mirror_upper_


@register_method("regmean_plusplus")
@dataclass
class RegMeanPlusPlus(RefiningMethod, RegMean):
    """As RegMean, layer by layer, using activations produced by the layers already merged.

    W = (Σ G̃ᵢ)⁻¹ Σ G̃ᵢ Wᵢ, layer after layer (Nguyen, Huu-Tien, Suzuki and Le-Minh, TMLR 2026, arXiv 2508.03121).

    As :class:`~regmean_lab.merging.regmean.RegMean`, with all its settings, but G̃ᵢ is the Gram matrix of the inputs
    that the layer gets in the merged model when that reads the text of member i: all layers before it are merged
    already. In the paper these are the transformer layers before it; inside a transformer layer its inputs are
    computed with the member's own weights. Here every linear layer is one step.
    """

    solves_experts: ClassVar[bool] = False  # their inputs are not those of a module's call

    @property
    def statistics(self) -> tuple[str, ...]:
        """What is needed is collected in the course of the merge, but for what pseudo-text is drawn from."""
        return self.text_statistics

    @override
    def problems(self) -> list[str]:
        found = super().problems() + self.text_problems()
        for setting, value, expected in (("gram", self.gram, "plain"), ("gram_from", self.gram_from, "measured")):
            if value in (*GRAMS, *GRAM_SOURCES) and value != expected:
                found.append(f"{setting}: regmean_plusplus measures them on the merged model; expected {expected}")
        return found

    def reading_problems(self) -> list[str]:
        """Why a text is of no use to models that only read it, as classifiers do, if it is of none."""
        from_base = self.regularization == "ridge" and self.ridge_towards == "base"
        if self.text_file is None or self.is_partial or from_base:
            return []
        return [
            "text: with one file for all, each member's matrices are of the same inputs in the same model, and "
            f"regmean_plusplus is the mean of the weights; expected {OWN} or {PSEUDO}, or method=regmean_sequential"
        ]

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """The mean, until the turn of a layer has come and there are Gram matrices."""
        if any(member.gram is None for member in parameter.members):
            return parameter.mean(), None
        return super().merge(parameter)

    def refines(self, layer: LinearLayer) -> bool:
        """All but the excluded layers."""
        return not matches(layer.name, self.exclude_layers)

    def solver(self, layer: RefinedLayer) -> _Solver:
        """Regression mean of the layer's weight."""
        return _Solver(self, layer)


@dataclass(frozen=True)
class _OneGram:
    """The Gram matrix of the one layer whose turn it is."""

    gram: Tensor

    def matrix(self, layer: str) -> Tensor:
        return self.gram


class _Solver:
    def __init__(self, method: RegMeanPlusPlus, layer: RefinedLayer) -> None:
        self._method = method
        self._layer = layer
        self._grams: list[Tensor] = []

    def add(self, member: int, batches: Iterable[LayerRows]) -> None:
        """Take up the rows of the next member's text."""
        total, count = None, 0
        for batch in batches:
            rows = batch.merged
            total = rows.new_zeros(rows.shape[1], rows.shape[1]) if total is None else total
            add_gram_(total, rows)
            count += len(rows)
        assert total is not None
        self._grams.append(mirror_upper_(total).div_(max(count, 1)))

    def solve(self) -> tuple[dict[str, Tensor], LayerDiagnostics | None]:
        """The layer's weight."""
        layer = self._layer
        members = [
            replace(member, gram=_OneGram(gram)) for member, gram in zip(layer.members, self._grams, strict=True)
        ]
        device = layer.merged[layer.weight].device
        inputs = MergeInputs(members, layer.coefficients, layer.layout, device, layer.base)
        parameter = merge_parameter(self._method, layer.weight, inputs)
        return {layer.weight: parameter.value}, parameter.diagnostics

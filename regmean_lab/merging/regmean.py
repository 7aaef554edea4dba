"""RegMean: regression means of linear layers."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, matches, register_method, unmatched_linear
from regmean_lab.merging.gram_sources import estimated_gram, measured_gram
from regmean_lab.merging.layer_systems import GramSum, SharedSystems
from regmean_lab.merging.linear_algebra import agreement, solve_device
from regmean_lab.merging.parameters import GramSource, LayerDiagnostics, Layout, MergeError, MergeMember, Parameter
from regmean_lab.merging.task_vectors import oriented
from regmean_lab.utils.checks import fraction, one_of, positive

REGULARIZATIONS = ("off_diagonal", "shrinkage", "ridge")
ANCHORS = ("mean", "base")
GRAMS = ("plain", "weighted")
GRAM_SOURCES = ("measured", "estimated", "auto")

SYSTEM_SETTINGS = ("off_diagonal", "regularization", "ridge", "gram", "gram_from", "weighted_off_diagonal")
"""Those that the left-hand side of a layer's system depends on."""

COLUMNS = 512
"""Columns of a product whose factors are converted to float64 at a time."""


@register_method("regmean")
@dataclass
class RegMean(MergeMethod):
    """Least-squares fit of each linear layer to the members' outputs on their own inputs; the mean for all else.

    W = (Σ Gᵢ)⁻¹ Σ Gᵢ Wᵢ for every linear layer, the mean for all else (Jin et al., ICLR 2023, equation 2).

    Wᵢ is a member's weight as [in, out] and Gᵢ = XᵢᵀXᵢ / n the Gram matrix of the layer's inputs on that member's
    data. The system is solved for the difference from the members' mean, W = W̄ + (Σ Gᵢ)⁻¹ Σ Gᵢ (Wᵢ − W̄), which is
    the same where the sum is regular, and leaves the mean where it is not: a feature that no member ever saw keeps the
    members' mean, and so does, under jitter, a direction that no member saw.

    The system can be regularised in three ways (``regularization``):

    - ``off_diagonal``, as published: off-diagonal entries of all Gᵢ are multiplied by the factor ``off_diagonal``.
    - ``shrinkage``: the factor is estimated for each layer from the Gram matrices alone, see
      :func:`~regmean_lab.merging.linear_algebra.agreement`: the less they agree, the smaller it is.
    - ``ridge``: W = (Σ Gᵢ + ρ s I)⁻¹ (Σ Gᵢ Wᵢ + ρ s V) with ρ = ``ridge``, s the mean diagonal entry of Σ Gᵢ, and V
      the members' mean or the base model's weight (the mean, where the base model has none): ``ridge_towards``.

    In place of Gᵢ there may be others (``gram``, ``gram_from``):

    - ``gram=weighted``: loss-weighted Gram matrices, see :mod:`regmean_lab.statistics.weighted_gram`, each divided by
      its Frobenius norm. They have a factor of their own, ``weighted_off_diagonal``, which leaves them as they are.
    - ``gram_from=estimated``: Cᵢ = DᵢᵀDᵢ with the task matrix Dᵢ = Wᵢ − W₀ as [out, in], from the weights alone, as
      :class:`~regmean_lab.merging.actmat.ActMat` has them. A layer that the base model does not have is averaged.
    - ``gram_from=auto``: measured ones of the members that have any (of a checkpoint with counts of tokens, on text
      drawn from these), estimated ones of the others; all of a layer are divided by their Frobenius norms then.

    Attributes:
        off_diagonal: factor α on the off-diagonal entries of Gᵢ; 1 leaves them, 0 is the same as ``diagonal``.
        diagonal: use only the diagonals of Gᵢ.
        exclude_layers: patterns of names of linear layers that are averaged instead.
        regularization: ``off_diagonal``, ``shrinkage`` or ``ridge``.
        ridge: ρ, for ``ridge``.
        ridge_towards: ``mean`` or ``base``, for ``ridge``.
        gram: ``plain`` or ``weighted``.
        gram_from: ``measured``, ``estimated`` or ``auto``.
        weighted_off_diagonal: in place of ``off_diagonal``, for ``gram=weighted``.
    """

    one_at_a_time: ClassVar[bool] = True
    by_layer: ClassVar[bool] = True
    solves_experts: ClassVar[bool] = True
    without_gram: ClassVar[tuple[str, ...]] = ("method.gram_from=auto and base=FOLDER_OR_NAME",)

    off_diagonal: float = 0.9
    diagonal: bool = False
    exclude_layers: list[str] = field(default_factory=list)
    regularization: str = "off_diagonal"
    ridge: float = 0.1
    ridge_towards: str = "mean"
    gram: str = "plain"
    gram_from: str = "measured"
    weighted_off_diagonal: float = 1.0

    def __post_init__(self) -> None:
        self._systems = SharedSystems()

    @property
    def statistics(self) -> tuple[str, ...]:
        """Gram matrices of every member, unless they are estimated from weights."""
        if self.gram_from == "estimated":
            return ()
        return ("gram",) if self.gram == "plain" else ("weighted_gram",)

    @property
    def stands_in(self) -> bool:
        """Whether a member may lack its statistics."""
        return self.gram_from == "auto"

    @property
    def needs_base(self) -> bool:
        """The model that the members were trained from, for a ridge towards it, and to estimate Gram matrices."""
        towards_base = self.regularization == "ridge" and self.ridge_towards == "base"
        return towards_base or self.gram_from != "measured"

    @property
    def reads_experts(self) -> bool:
        """Not with weighted Gram matrices, of which experts have none."""
        return self.solves_experts and (self.gram == "plain" or self.gram_from == "estimated")

    @property
    def notes(self) -> list[str]:
        """Which Gram matrices are none of data."""
        if self.gram_from == "estimated":
            return [f"{self.name}: Gram matrices are estimated from the weights, not measured"]
        return []

    def gram_layers(self, names: Collection[str], layout: Layout) -> list[str]:
        """All linear layers but the excluded ones."""
        return [layer for layer in super().gram_layers(names, layout) if not matches(layer, self.exclude_layers)]

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("off_diagonal", self.off_diagonal, found)
        one_of("regularization", self.regularization, REGULARIZATIONS, found)
        positive("ridge", self.ridge, found)
        one_of("ridge_towards", self.ridge_towards, ANCHORS, found)
        fraction("weighted_off_diagonal", self.weighted_off_diagonal, found)
        one_of("gram", self.gram, GRAMS, found)
        # With gram=weighted there may still be the published factor of a suite and a model.
        if self.gram == "plain" and self.weighted_off_diagonal != type(self).weighted_off_diagonal:
            found.append("weighted_off_diagonal: has no effect with gram=plain; give off_diagonal")
        one_of("gram_from", self.gram_from, GRAM_SOURCES, found)
        wrong = {problem.partition(":")[0] for problem in found}
        found += [problem for problem in self._without_effect() if problem.partition(":")[0] not in wrong]
        if self.gram == "weighted" and self.gram_from == "estimated":
            found.append(
                "gram_from: weights do not tell how much rows matter; expected measured or auto, or gram=plain"
            )
        if self.diagonal and self.regularization != "off_diagonal":
            found.append(f"regularization: diagonal=true has nothing to regularise, got {self.regularization!r}")
        return found

    def _without_effect(self) -> list[str]:
        """Settings of a ridge that are given where there is none; a factor may be the published one of a suite."""
        if self.regularization not in REGULARIZATIONS or self.regularization == "ridge":
            return []
        return [
            f"{name}: has no effect with regularization={self.regularization}; give regularization=ridge"
            for name in ("ridge", "ridge_towards")
            if getattr(self, name) != getattr(type(self), name)
        ]

    def prepare(
        self,
        members: Sequence[MergeMember],
        names: Sequence[str],
        layout: Layout,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Check that every pattern of ``exclude_layers`` names a layer, and count layers with the same inputs."""
        if unmatched := unmatched_linear(self.exclude_layers, layout):
            raise MergeError(f"method.exclude_layers: no linear layer matches {', '.join(unmatched)}")
        merged = [layout.linear[name].name for name in names if name in layout.linear]
        kept = [layer for layer in merged if not matches(layer, self.exclude_layers)]
        self._systems.expect(self._inputs(layer, members) for layer in kept)

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Regression mean of a linear layer's weight; mean of any other parameter."""
        if parameter.layer is None or matches(parameter.layer.name, self.exclude_layers):
            return parameter.mean(), None
        if parameter.base is None and any(self._is_estimated(member) for member in parameter.members):
            return parameter.mean(), None
        if self.regularization == "off_diagonal" and (self.diagonal or self._given_factor == 0):
            return self._merge_diagonal(parameter, parameter.mean()), None
        return self._merge_full(parameter)

    def _merge_full(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics]:
        assert parameter.layer is not None
        layer, first_tensor = parameter.layer.name, parameter.tensors[0]
        own_device, own_dtype = first_tensor.device, first_tensor.dtype
        del first_tensor
        # In float64 whatever the factor: the condition number of a sum scaled to a unit diagonal grows with its width
        # (1536 features that are alike have one of 13,800 with a factor of 0.9), which makes float32 rounding visible.
        device, dtype = solve_device(own_device), torch.float64
        mean = parameter.mean(dtype, device)
        size = mean.shape[0] if parameter.layer.transposed else mean.shape[1]
        # Layers with the same inputs, as queries, keys and values of an attention, differ in right-hand sides alone.
        inputs = self._inputs(parameter.layer.name, parameter.members)
        key = self._key(inputs, parameter, device)
        known = self._systems.known(key)
        factor = self._factor(parameter, size, device) if known is None else known.factor
        sums = GramSum(size, device) if known is None else None
        right = torch.zeros(mean.numel() // size, size, dtype=dtype, device=device)
        first: Tensor | None = None
        for number, (weight, tensor) in enumerate(zip(parameter.weights, parameter.tensors, strict=True)):
            stored = self._matrix(parameter, number, size)
            gram = stored.to(device)
            if sums is not None:
                sums.add(gram, weight, parameter.members[number].name)
            if first is None:
                first = gram
                continue
            # The weighted differences from the mean add up to 0, so that the first member's is minus all others'.
            difference = oriented(tensor.to(device, dtype) - mean, parameter.layer)
            for start in range(0, size, COLUMNS):
                columns = slice(start, start + COLUMNS)
                apart = gram[:, columns].to(dtype) - first[:, columns].to(dtype)
                right[:, columns].addmm_(difference, apart, alpha=weight * factor)
            if factor != 1:  # what the factor takes from the diagonal too much
                apart = gram.diagonal().to(dtype) - first.diagonal().to(dtype)
                right.addcmul_(difference, apart, value=weight * (1 - factor))
            del difference
        del first, gram, stored
        try:
            if known is None:
                assert sums is not None
                # Where no member has changed anything the weights are the base's, which matter to inputs that occur.
                from_weights = all(map(self._is_estimated, parameter.members))
                ridge = self.ridge if self.regularization == "ridge" else None
                known = sums.system(factor, ridge, from_weights)
                self._systems.keep(inputs, key, known)
                del sums
            if known.strength is not None and self.ridge_towards == "base" and parameter.base is not None:
                offset = (parameter.base.to(device, dtype) - mean) * known.strength
                right.add_(oriented(offset, parameter.layer))
            solution = known.solve(right.T)
        except ValueError as error:
            raise MergeError(
                f"layer {layer}: the sum of the members' Gram matrices cannot be solved: {error}"
            ) from None
        change = oriented(solution.T, parameter.layer)
        merged = mean.add_(change).to(own_device, own_dtype)
        return merged, known.diagnostics(layer, factor if self.regularization == "shrinkage" else None)

    def _inputs(self, layer: str, members: Sequence[MergeMember]) -> Hashable:
        """What tells a layer's inputs: the layer whose matrix each member has for it; None where that is not known."""
        leaders = []
        for member in members:
            source = self._source(member)
            if source is None or self._is_estimated(member):
                return None
            leaders.append(getattr(source, "shared", {}).get(layer, layer))
        return tuple(leaders)

    def _key(self, inputs: Hashable, parameter: Parameter, device: torch.device) -> Hashable:
        """Everything that a layer's system depends on; None where it serves this layer alone."""
        if inputs is None or self._systems.expected[inputs] < 2:
            return None
        sources = tuple(id(self._source(member)) for member in parameter.members)
        settings = tuple(getattr(self, name) for name in SYSTEM_SETTINGS)
        return inputs, sources, tuple(parameter.weights), device, settings

    def _factor(self, parameter: Parameter, size: int, device: torch.device) -> float:
        """The factor on off-diagonal entries."""
        if self.regularization != "shrinkage":
            return self._given_factor if self.regularization == "off_diagonal" else 1.0
        # Read again for each use: memory must not grow with the number of members.
        return agreement(
            lambda: (
                self._matrix(parameter, number, size).to(device, torch.float64)
                for number in range(len(parameter.members))
            ),
            parameter.coefficients,
        )

    def _merge_diagonal(self, parameter: Parameter, mean: Tensor) -> Tensor:
        assert parameter.layer is not None
        size = mean.shape[0] if parameter.layer.transposed else mean.shape[1]
        total = torch.zeros(size, dtype=mean.dtype, device=mean.device)
        change = torch.zeros_like(mean)
        for number, (coefficient, tensor) in enumerate(zip(parameter.coefficients, parameter.tensors, strict=True)):
            weight = coefficient * self._matrix(parameter, number, size).diagonal().to(mean)
            total.add_(weight)
            change.add_((tensor - mean) * (weight[:, None] if parameter.layer.transposed else weight))
        total[total == 0] = 1
        return mean + change / (total[:, None] if parameter.layer.transposed else total)

    @property
    def _given_factor(self) -> float:
        return self.off_diagonal if self.gram == "plain" else self.weighted_off_diagonal

    def _is_estimated(self, member: MergeMember) -> bool:
        """Whether a member's Gram matrices are estimated from its weights."""
        return self.gram_from == "estimated" or (self.gram_from == "auto" and self._source(member) is None)

    def _source(self, member: MergeMember) -> GramSource | None:
        """What gives a member's measured Gram matrices."""
        return member.gram if self.gram == "plain" else member.others.get("weighted_gram")

    def _matrix(self, parameter: Parameter, number: int, size: int) -> Tensor:
        """A member's matrix of the layer, shape [in, in]; divided by its norm where scales say nothing."""
        assert parameter.layer is not None
        member = parameter.members[number]
        if self._is_estimated(member):
            assert parameter.base is not None
            matrix = estimated_gram(parameter.tensors[number], parameter.base, parameter.layer)
        else:
            matrix = measured_gram(member, self._source(member), parameter.layer.name, size, self.gram)
        estimated = [self._is_estimated(other) for other in parameter.members]
        if self.gram == "plain" and all(estimated) == any(estimated):
            return matrix
        norm = float(torch.linalg.vector_norm(matrix, dtype=torch.float64))
        return matrix / norm if norm > 0 else matrix

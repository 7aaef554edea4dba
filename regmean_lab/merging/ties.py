"""TIES: trim, elect signs, merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import Layout, MergeMember, Parameter, register_method
from regmean_lab.merging.finishing import base_tensor
from regmean_lab.merging.task_vectors import ElementwiseMethod, keep_above, magnitude_threshold
from regmean_lab.utils.checks import fraction, one_of

SCOPES = ("model", "parameter")


@register_method("ties")
@dataclass
class Ties(ElementwiseMethod):
    """Trim each task vector to its largest magnitudes, elect a sign for each element, average the values that have it.

    θ = θ₀ + λ · mean{τ̂ᵢ : sign τ̂ᵢ = sign Σ τ̂ᵢ}, with τ̂ᵢ the trimmed task vectors (Yadav et al., NeurIPS 2023).

    Attributes:
        density: share of each task vector's elements that is kept.
        scope: whether the largest magnitudes of the whole ``model`` are kept, as published, or those of each
            ``parameter``.
        scaling: λ.
    """

    scaling: float = 1.0
    density: float = 0.2
    scope: str = "model"
    _thresholds: dict[int, float] = field(default_factory=dict, init=False, repr=False)

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("density", self.density, found, zero=False)
        one_of("scope", self.scope, SCOPES, found)
        if self.scope == "model" and any("density" in settings for settings in self.parts.values()):
            found.append("parts: with scope=model all parts have one density; expected scope=parameter")
        return found

    def prepare(
        self,
        members: Sequence[MergeMember],
        names: Sequence[str],
        layout: Layout,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Find the smallest magnitude that is kept of each member's task vector, if it is the whole model's."""
        self._thresholds = {}
        if self.scope == "parameter" or self.density == 1 or base is None:
            return
        known = [name for name in names if name in base]
        for member in members if known else ():
            vector = partial(_whole_vector, member, known, base)
            self._thresholds[id(member)] = magnitude_threshold(vector, self.density)

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The mean of the trimmed values that have the elected sign."""
        trimmed = [self._trim(parameter, number, vector) for number, vector in enumerate(vectors)]
        return self.combined(trimmed, parameter, elect=True)

    def _trim(self, parameter: Parameter, member: int, vector: Tensor) -> Tensor:
        density = parameter.setting(member, "density", self.density)
        if density == 1:
            return vector
        if density == 0:
            return torch.zeros_like(vector)
        if self.scope == "parameter":
            return keep_above(vector, magnitude_threshold(lambda: [vector], density))
        return keep_above(vector, self._thresholds[id(parameter.members[member])])


def _whole_vector(member: MergeMember, names: Sequence[str], base: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """A member's task vector, parameter by parameter."""
    for name in names:
        tensor = member.weights[name].detach()
        if tensor.dtype.is_floating_point:
            tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            start = base_tensor(base, name, tensor)
            assert start is not None
            yield tensor - start

"""TIES: trim, elect signs, merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.counting import cuts, threshold_place
from regmean_lab.merging.parameters import Layout, MergeInputs, MergeMember, Parameter
from regmean_lab.merging.pieces import Pieces, blocks_of, is_floating, read_by_rows, read_parameter
from regmean_lab.merging.side_by_side import side_by_side
from regmean_lab.merging.task_vectors import ElementwiseMethod, keep_above, task_vectors
from regmean_lab.merging.weights import tensor_shape
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
        parts = _parts(members, [name for name in names if name in base], layout, base)
        if not parts:
            return
        with side_by_side(torch.get_num_threads()) as run:
            found = _thresholds(Pieces(parts[0](), parts, run), [self.density] * len(members))
        self._thresholds = {
            id(member): value for member, value in zip(members, found, strict=True) if value is not None
        }

    @property
    @override
    def surveys(self) -> bool:
        return self.scope == "parameter"

    @override
    def survey_vectors(self, pieces: Pieces) -> Any:
        """The smallest magnitude that is kept of each member's task vector."""
        members = range(len(pieces.whole.members))
        return _thresholds(pieces, [pieces.whole.setting(number, "density", self.density) for number in members])

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
            return keep_above(vector, parameter.known[member])
        return keep_above(vector, self._thresholds[id(parameter.members[member])])


def _thresholds(pieces: Pieces, densities: Sequence[float]) -> list[float | None]:
    """The smallest magnitude, rounded to float32, that is kept of each task vector; None where that is not the matter.

    Args:
        pieces: all pieces of the task vectors.
        densities: share that is kept, one a member.
    """
    if not any(0 < density < 1 for density in densities):
        return [None] * len(densities)
    found = cuts(
        pieces.each,
        lambda piece: [vector.abs().float() for vector in task_vectors(piece)],
        lambda number, total, _: [threshold_place(total, densities[number])] if 0 < densities[number] < 1 else [],
    )
    return [own[0].value if own else None for own in found]


def _parts(
    members: Sequence[MergeMember], names: Sequence[str], layout: Layout, base: Mapping[str, Tensor]
) -> list[Callable[[], Parameter]]:
    """What reads each piece of the members' parameters with their base, but those of whole numbers."""
    by_rows, found = read_by_rows(members), list[Callable[[], Parameter]]()
    inputs = MergeInputs(members, [1 / len(members)] * len(members), layout, torch.device("cpu"), base)
    for name in names:
        weights = members[0].weights
        if not is_floating(weights, name):
            continue
        blocks: list[slice | None] = [*blocks_of(tensor_shape(weights, name), len(members))] if by_rows else []
        found += [partial(read_parameter, name, inputs, block) for block in blocks or [None]]
    return found

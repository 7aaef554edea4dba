"""Model Breadcrumbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import register_method
from regmean_lab.merging.counting import Cut, cuts
from regmean_lab.merging.parameters import Parameter
from regmean_lab.merging.pieces import Pieces
from regmean_lab.merging.task_vectors import ElementwiseMethod, task_vectors
from regmean_lab.utils.checks import fraction


@register_method("breadcrumbs")
@dataclass
class Breadcrumbs(ElementwiseMethod):
    """The pretrained model plus the task vectors without their smallest and largest elements.

    θ = θ₀ + α Σ mᵢ ⊙ τᵢ, where masks mᵢ hide the smallest and the largest changes.

    Davari and Belilovsky, 2023, arXiv 2312.06795; masks are made for each parameter on its own.

    Attributes:
        small: share β of each parameter's elements, the smallest by magnitude, that is dropped.
        large: share of each parameter's elements, the largest by magnitude, that is dropped: outliers.
        density: share of each parameter's elements that is kept, in place of small: those below the largest.
        elect_signs: of each element, only the values that have the elected sign count, as in TIES.
        scaling: α.
    """

    scaling: float = 0.2
    small: float = 0.85
    large: float = 0.006
    density: float | None = None
    elect_signs: bool = False

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        wrong = len(found)
        fraction("small", self.small, found, one=False)
        fraction("large", self.large, found, one=False)
        if self.density is not None:
            fraction("density", self.density, found, zero=False)
        elif len(found) == wrong and self.small + self.large >= 1:
            found.append(f"large: expected less than 1 - small, got small={self.small} and large={self.large}")
        return found

    @override
    def survey_vectors(self, pieces: Pieces) -> Any:
        """Of each member the cuts between which elements are kept; none where all are."""
        whole = pieces.whole
        every = [self._density(whole, number) == 1 for number in range(len(whole.members))]
        if all(every):
            return [[] for _ in every]
        return cuts(
            pieces.each,
            lambda piece: [vector.abs() for vector in task_vectors(piece)],
            lambda number, total, _: [] if every[number] else self._places(whole, number, total),
            lambda piece: piece.offset,
        )

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The sum of the masked task vectors."""
        masked = [_between(vector, cut, parameter.offset) for vector, cut in zip(vectors, parameter.known, strict=True)]
        return self.combined(masked, parameter, elect=self.elect_signs, mean=False)

    def _density(self, parameter: Parameter, member: int) -> float:
        return parameter.setting(member, "density", -1 if self.density is None else self.density)

    def _places(self, parameter: Parameter, member: int, total: int) -> tuple[int, int]:
        """Where, in the ascending order of magnitudes, what is kept begins, and where it has ended."""
        large = parameter.setting(member, "large", self.large)
        density = self._density(parameter, member)
        if density < 0:
            return int(self.small * total), total - int(large * total)
        # Where both cannot be had, outliers stay.
        wanted = int(density * total)
        start = max(0, total - wanted - int(large * total))
        return start, min(total, start + wanted)


def _between(vector: Tensor, bounds: Sequence[Cut], offset: int) -> Tensor:
    """A task vector with all elements set to zero that do not lie between two cuts of its magnitudes."""
    if not bounds:
        return vector
    magnitudes, (lower, upper) = vector.abs(), bounds
    kept = upper.before(magnitudes, offset).logical_and_(lower.before(magnitudes, offset).logical_not_())
    return vector * kept

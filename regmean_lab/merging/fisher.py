"""Fisher-weighted averaging."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from regmean_lab.merging.base import MergeMethod, register_method
from regmean_lab.merging.parameters import LayerDiagnostics, Layout, MergeError, MergeMember, Parameter
from regmean_lab.utils.checks import one_of, positive

NORMALIZATIONS = ("none", "parameter", "model")
EPSILON_PLACES = ("after", "before")


@register_method("fisher")
@dataclass
class Fisher(MergeMethod):
    """The mean weighted by each element's Fisher information.

    θ = Σ cᵢ Fᵢ θᵢ / Σ cᵢ Fᵢ with diagonal Fisher information Fᵢ (Matena and Raffel, 2022, equation 4).

    Attributes:
        normalization: divide Fᵢ by its Euclidean norm, of each ``parameter`` or over the whole ``model``, or ``none``.
        epsilon: added to every Fᵢ, so that a parameter that no member's data moves becomes the members' mean.
        epsilon_added: ``after`` the division by the norm, Fᵢ / ‖Fᵢ‖ + ε, or ``before`` it, as Jin et al. (ICLR 2023)
            did: (Fᵢ + ε) / (‖Fᵢ‖ + ε). Most elements of Fᵢ are so small that this decides their weight. Without
            normalization it makes no difference.
    """

    one_at_a_time: ClassVar[bool] = True
    whole_model: ClassVar[tuple[str, ...]] = ("epsilon",)

    normalization: str = "none"
    epsilon: float = 1e-10
    epsilon_added: str = "after"
    _scales: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Fisher information of every member."""
        return ("fisher",)

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        one_of("normalization", self.normalization, NORMALIZATIONS, found)
        positive("epsilon", self.epsilon, found)
        one_of("epsilon_added", self.epsilon_added, EPSILON_PLACES, found)
        return found

    def prepare(
        self,
        members: Sequence[MergeMember],
        names: Sequence[str],
        layout: Layout,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Measure the norm of each member's Fisher information, if it is divided by it."""
        self._scales = {}
        if self.normalization == "model":
            for member in members:
                squares = sum(float(_diagonal(member, name).double().square().sum()) for name in names)
                self._scales[member.name] = self._reciprocal(math.sqrt(squares))

    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Mean of the members' tensors, each element weighted by its Fisher information."""
        numerator = torch.zeros_like(parameter.tensors[0])
        denominator = torch.zeros_like(numerator)
        for member, coefficient, tensor in zip(
            parameter.members, parameter.coefficients, parameter.tensors, strict=True
        ):
            diagonal = _diagonal(member, parameter.name)
            scale = self._scale(member, diagonal)
            if parameter.rows is not None:
                diagonal = diagonal[parameter.rows.to(diagonal.device)]
            if diagonal.shape != tensor.shape:
                raise MergeError(
                    f"Fisher information of {member.name} for {parameter.name}: expected shape {tuple(tensor.shape)}, "
                    f"found {tuple(diagonal.shape)}"
                )
            if self.epsilon_added == "before":
                weight = (diagonal.to(tensor) + self.epsilon).mul_(scale * coefficient)
            else:
                weight = (diagonal.to(tensor) * scale).add_(self.epsilon).mul_(coefficient)
            denominator.add_(weight)
            numerator.addcmul_(weight, tensor)
        return numerator.div_(denominator), None

    def _scale(self, member: MergeMember, diagonal: Tensor) -> float:
        if self.normalization == "parameter":
            return self._reciprocal(float(diagonal.double().norm()))
        return self._scales.get(member.name, 1.0)

    def _reciprocal(self, norm: float) -> float:
        """What Fisher information is multiplied by, given its norm."""
        if self.epsilon_added == "before":
            return 1.0 / (norm + self.epsilon)
        return 1.0 / norm if norm > 0 else 1.0


def _diagonal(member: MergeMember, name: str) -> Tensor:
    if member.fisher is None:
        raise MergeError(f"member {member.name} has no Fisher information; fisher needs it for every member")
    diagonal = member.fisher.diagonal(name)
    if not torch.isfinite(diagonal).all():
        raise MergeError(f"Fisher information of {member.name} for {name}: NaN or infinity")
    return diagonal

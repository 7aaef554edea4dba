"""Task arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from regmean_lab.merging.base import register_method
from regmean_lab.merging.parameters import Parameter
from regmean_lab.merging.task_vectors import ElementwiseMethod


@register_method("task_arithmetic")
@dataclass
class TaskArithmetic(ElementwiseMethod):
    """The pretrained model plus the scaled sum of the members' changes.

    θ = θ₀ + λ Σ τᵢ, the sum of the task vectors (Ilharco et al., ICLR 2023).

    With coefficients cᵢ each of the n task vectors counts n cᵢ times.

    Attributes:
        scaling: λ; the published experiments choose it on held-out data.
    """

    scaling: float = 0.4

    def merge_vectors(self, parameter: Parameter, vectors: Sequence[Tensor]) -> Tensor:
        """The sum of the task vectors."""
        return self.combined(vectors, parameter, elect=False, mean=False)

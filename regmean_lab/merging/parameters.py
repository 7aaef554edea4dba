"""What merge methods are given: members, their architecture, one parameter of each; and what they tell of a layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from regmean_lab.utils.errors import UserError

if TYPE_CHECKING:
    from regmean_lab.merging.base import MethodInstance


class MergeError(UserError):
    """Members that cannot be merged, or a merge that went wrong; the message names the tensor and the member."""


class GramSource(Protocol):
    """Gram matrices of one member, read when asked for."""

    def matrix(self, layer: str) -> Tensor:
        """Mean of ``xᵀx`` over the rows ``x`` of the layer's input, shape [in, in]."""


class GradientGramSource(Protocol):
    """Gram matrices of the gradients at the outputs of one member's layers, read when asked for."""

    @property
    def layers(self) -> Collection[str]:
        """The layers that there is a matrix for."""

    def matrix(self, layer: str) -> Tensor:
        """Mean of ``gᵀg`` over the rows ``g`` of the gradient at the layer's output, shape [out, out]."""


class FisherSource(Protocol):
    """Diagonal Fisher information of one member, read when asked for."""

    def diagonal(self, parameter: str) -> Tensor:
        """Mean squared gradient of each element of a parameter, of the parameter's shape."""


@dataclass(frozen=True)
class MergeMember:
    """One model to be merged.

    Attributes:
        name: what messages call it.
        weights: its parameters by name; a ``state_dict`` or anything that reads tensors when asked.
        gram: its Gram matrices, where the method asks for them.
        fisher: its diagonal Fisher information, where the method asks for it.
        annotated: for each output of a multi-label head, whether the member's training data annotates it. None where
            the labels are the same for all members.
        gradient_gram: Gram matrices of the gradients at its layers' outputs, where the method asks for them.
        others: by kind, what gives statistics of other kinds that the method asks for.
    """

    name: str
    weights: Mapping[str, Tensor]
    gram: GramSource | None = None
    fisher: FisherSource | None = None
    annotated: tuple[bool, ...] | None = None
    gradient_gram: GradientGramSource | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Any],
        annotated: tuple[bool, ...] | None = None,
    ) -> MergeMember:
        """A member with what gives its statistics, by kind."""
        own = {entry.name for entry in fields(cls)} & set(statistics)
        others = {kind: source for kind, source in statistics.items() if kind not in own}
        return cls(name, weights, annotated=annotated, others=others, **{kind: statistics[kind] for kind in own})


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer: its module name, and whether its weight is stored as [in, out] (``Conv1D`` of GPT-2)."""

    name: str
    transposed: bool = False


@dataclass(frozen=True)
class StackedLayers:
    """Linear layers of a mixture's experts whose weights are one parameter: [experts, out, in].

    Attributes:
        name: the parameter's name, which with an expert's number is the layer's.
        count: number of experts.
        transposed: whether each weight is stored as [in, out].
    """

    name: str
    count: int
    transposed: bool = False

    def layer(self, expert: int) -> LinearLayer:
        """The linear layer of one expert."""
        return LinearLayer(f"{self.name}.{expert}", self.transposed)

    @property
    def layers(self) -> list[LinearLayer]:
        """The linear layers of all experts."""
        return [self.layer(expert) for expert in range(self.count)]


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward block: one first layer (two, where it is gated) and the second layer, which takes its neurons."""

    first: tuple[LinearLayer, ...]
    second: LinearLayer


@dataclass(frozen=True)
class Layout:
    """What a merge must know of the architecture.

    Attributes:
        linear: the linear layer of each parameter that is a linear layer's weight.
        label_outputs: parameters whose first dimension is the labels (weight and bias of the last layer of the head).
        feed_forward: the feed-forward blocks, in order.
        stacked: the linear layers of each parameter that holds those of several experts.
        other_maps: parameters that are matrices (convolutions, routers, attention's joint projections) without being
            weights of linear layers, embeddings or normalisations.
    """

    linear: Mapping[str, LinearLayer]
    label_outputs: frozenset[str] = frozenset()
    feed_forward: tuple[FeedForward, ...] = ()
    stacked: Mapping[str, StackedLayers] = field(default_factory=dict)
    other_maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeInputs:
    """What a merge reads: the same for all parameters, but for coefficients of their own.

    Attributes:
        members: the members.
        coefficients: one a member.
        layout: what is known of the architecture.
        device: where tensors are wanted.
        base: weights of the model that the members were trained from, or None.
    """

    members: Sequence[MergeMember]
    coefficients: Sequence[float]
    layout: Layout
    device: torch.device
    base: Mapping[str, Tensor] | None = None

    def with_coefficients(self, own: Sequence[float] | None) -> MergeInputs:
        """The same with other coefficients, if there are any."""
        return self if own is None else replace(self, coefficients=own)


@dataclass(frozen=True)
class Parameter:
    """One parameter of all members that take part in merging it.

    Attributes:
        name: the parameter's name.
        tensors: its value in each member, equal shapes, floating point, on the device that merges. Read one at a time
            for methods that say so (``MergeMethod.one_at_a_time``).
        members: the members, in the same order.
        coefficients: one positive weight a member; they add up to 1.
        layer: the linear layer whose weight it is, or None for any other parameter.
        rows: indices of the parameter's rows that ``tensors`` hold, shape [rows], or None for the whole parameter.
        base: its value in the model that the members were trained from, of the tensors' shape, dtype and device. None
            where that model has no such parameter (a new head), and for methods that do not ask for it.
        factors: one weight a member, of any sign and sum, in place of the coefficients; None where those count.
        own: settings of each member by name, where they are not the method's; empty where all are.
        start: where these rows begin in the whole parameter, if they are a piece of it that follows others.
        known: what the method found out about the whole parameter, see ``MergeMethod.survey``; None: nothing yet.
        dtype: the one that the merged value is given, if it is not the tensors'.
    """

    name: str
    tensors: Sequence[Tensor]
    members: Sequence[MergeMember]
    coefficients: Sequence[float]
    layer: LinearLayer | None = None
    rows: Tensor | None = None
    base: Tensor | None = None
    factors: Sequence[float] | None = None
    own: Sequence[Mapping[str, float]] = ()
    start: int = 0
    known: Any = None
    dtype: torch.dtype | None = None

    @property
    def offset(self) -> int:
        """Where these rows begin in the whole parameter, counted in elements."""
        return self.start * math.prod(self.tensors[0].shape[1:])

    @property
    def weights(self) -> list[float]:
        """The factors, or the coefficients times the number of members: each 1 where all members count alike."""
        if self.factors is not None:
            return list(self.factors)
        return [coefficient * len(self.members) for coefficient in self.coefficients]

    def setting(self, member: int, name: str, default: float) -> float:
        """A setting for one member: its own, or the method's.

        Args:
            member: number of the member.
            name: the setting's name.
            default: the method's.
        """
        return self.own[member].get(name, default) if self.own else default

    def mean(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """The members' weighted mean, of the tensors' shape; exact where all members are equal.

        Args:
            dtype: in which it is computed; None is the tensors'.
            device: where it is computed; None is where the tensors are.
        """
        first = self.tensors[0].to(device=device, dtype=dtype)
        if len(self.tensors) == 1:
            return first.clone()
        result = torch.lerp(first, self.tensors[1].to(first), self.coefficients[1])
        for number in range(2, len(self.tensors)):
            result.add_(self.tensors[number].to(first) - first, alpha=self.coefficients[number])
        return result


@dataclass(frozen=True)
class TensorSettings:
    """How one tensor is merged, where that is another way than for all others.

    Attributes:
        method: settings of the method.
        coefficients: one a member, in place of the method's.
        weights: one a member, of any sign and sum, in place of the method's.
        members: settings of each member, in place of the method's; empty where all are alike.
    """

    method: Mapping[str, Any] = field(default_factory=dict)
    coefficients: Sequence[float] | None = None
    weights: Sequence[float] | None = None
    members: Sequence[Mapping[str, float]] = ()

    def applied(self, method: MethodInstance) -> MethodInstance:
        """The method with these settings; what it found out about the whole model beforehand stays."""
        if not self.method:
            return method
        changed = copy.copy(method)
        for name, value in self.method.items():
            setattr(changed, name, value)
        return changed


@dataclass(frozen=True)
class LayerDiagnostics:
    """Diagnostics of a layer's system of equations: its condition and what was done about it.

    Attributes:
        layer: the linear layer's name.
        jitter: by which share of itself every diagonal entry was raised; 0 when none had to be.
        condition: a lower bound of the condition number of what was solved, scaled to a unit diagonal.
        unseen_features: inputs that were zero in all members' data; their weights are the members' mean.
        off_diagonal_share: share of the squared Frobenius norm of the Gram sum that lies off the diagonal.
        off_diagonal: the factor on the off-diagonal entries, where it was estimated.
        moved: distance of the merged weight from the members' mean, in units of the members' own root mean square
            distance from it. None where members are equal, or merged row by row over some of them.
        distances: by member, the distance of the merged weight from the member's, as a share of the mean's distance
            from it: 1 for the mean, 0 for the member itself. Before steps that follow the merge, as ``moved``.
        conditions: by member, a lower bound of the condition number of its own Gram matrix, scaled to a unit diagonal:
            the mean square of its eigenvalues, which is cheaper than what bounds ``condition``, and lower.
    """

    layer: str
    jitter: float
    condition: float
    unseen_features: int
    off_diagonal_share: float
    off_diagonal: float | None = None
    moved: float | None = None
    distances: Mapping[str, float] = field(default_factory=dict)
    conditions: Mapping[str, float] = field(default_factory=dict)

"""What every merge method is given and what it returns.

A merge method is one file in this package and one YAML in ``conf/method``: a dataclass whose fields are the method's
settings, made known by :func:`register_method`. It is called once for each parameter and sees nothing else of the
models, so that memory does not grow with their number of layers.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints

import torch
from torch import Tensor

from regmean_lab.merging.followed_by import step_problems
from regmean_lab.merging.partial import covered, top_blocks
from regmean_lab.merging.parts import PER_MEMBER, lengths, part_problems
from regmean_lab.utils import plugins
from regmean_lab.utils.checks import at_least_one as at_least_one
from regmean_lab.utils.checks import fraction as fraction
from regmean_lab.utils.checks import one_of
from regmean_lab.utils.checks import positive as positive
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.registry import Registry

if TYPE_CHECKING:
    from regmean_lab.merging.pieces import Pieces

LABEL_HEADS = ("merged", "row_mean")
MethodInstance = TypeVar("MethodInstance", bound="MergeMethod")


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


@dataclass
class MergeMethod(ABC):
    """Base of all merge methods; its fields are settings that every method has.

    Attributes:
        coefficients: weight of each member, in the members' order; they add up to 1. None weights all alike.
        keep_layers: patterns (``*`` and ``?``) of modules or parameters that are not merged but stay each member's own,
            for example ``classifier``.
        merge_layers: patterns of the only modules or parameters that are merged; None is all.
        keep_top: number of top blocks to leave unmerged, along with the head.
        label_head: what becomes of the output layer of a multi-label classifier. ``merged``: the method merges each
            row, over the members whose training data annotates its label (all members, where none does). ``row_mean``,
            as Jin et al. (ICLR 2023) did: a row of the weight is the plain mean over the members that annotate its
            label, zero where none does, and the bias the plain mean over all members, whatever the method;
            coefficients and statistics have no part in it.
        parts: settings of parts of the model in place of these, by part and name of the setting; see
            :mod:`regmean_lab.merging.parts`.
        followed_by: steps after the merge, in order: a name, a mapping from a name to settings, or a list of such; see
            :mod:`regmean_lab.merging.followed_by`.
    """

    name: ClassVar[str]
    elementwise: ClassVar[bool] = False
    """Whether each element of a parameter is merged by itself, once what `survey` finds out is known: large parameters
    then go through in pieces, several of them side by side."""

    one_at_a_time: ClassVar[bool] = False
    """Whether it goes over the members' tensors and keeps none: then they are read when it comes to them, again each
    time, and memory does not grow with the number of members."""

    by_layer: ClassVar[bool] = False
    """Whether weights of linear layers are merged by a separate rule, and everything else is averaged."""

    solves_experts: ClassVar[bool] = False
    """Whether that goes for each expert of a mixture whose experts' weights are fused (`Layout.stacked`)."""

    refits: ClassVar[bool] = False
    """Whether the merge goes on after its parameters are merged (`RefiningMethod`): steps follow at its end then."""

    without_gram: ClassVar[tuple[str, ...]] = ()
    """Settings, each with its value and what else it takes, with which members need no Gram matrices."""

    whole_model: ClassVar[tuple[str, ...]] = ()
    """Settings, numbers among them, that are read once for the whole model: no part can have a value of its own."""

    coefficients: list[float] | None = None
    keep_layers: list[str] = field(default_factory=list)
    merge_layers: list[str] | None = None
    keep_top: int = 0
    label_head: str = "merged"
    parts: dict[str, Any] = field(default_factory=dict)
    followed_by: Any = field(default_factory=list)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Kinds of statistics that each member must have, see :mod:`regmean_lab.statistics.kinds`."""
        return ()

    @property
    def needs_base(self) -> bool:
        """Whether it needs the weights of the model that the members were trained from."""
        return False

    @property
    def beginning(self) -> MergeMethod:
        """What merges parameter by parameter: another method, for one that only goes on from what that one gives."""
        return self

    @property
    def reads_base(self) -> bool:
        """Whether the method or a step after it needs those weights."""
        return self.needs_base or bool(self.followed_by)

    @property
    def needs_text(self) -> bool:
        """Whether it reads members' text while it merges: a merge of weights and statistics alone cannot be its."""
        return False

    @property
    def reads_experts(self) -> bool:
        """Whether it solves for each of the fused experts (``solves_experts``) with these settings, too."""
        return self.solves_experts

    @property
    def free_weights(self) -> list[float] | None:
        """One weight a member, of any sign and sum, in place of the coefficients; None where those count."""
        return None

    @property
    def surveys(self) -> bool:
        """Whether it must have seen a whole parameter before it merges a piece of it."""
        return False

    def divisible(self, shape: Sequence[int], layer: LinearLayer | None) -> bool:
        """Whether rows of a parameter can be merged without the others.

        Args:
            shape: the parameter's.
            layer: the linear layer whose weight it is, or None.
        """
        return self.elementwise

    def survey(self, pieces: Pieces) -> Any:
        """What merging pieces of a parameter takes of the whole of it (``surveys``): ``Parameter.known`` is that.

        Args:
            pieces: the parameter, whole or in pieces.
        """
        return None

    @property
    def stands_in(self) -> bool:
        """Whether a member may lack its statistics, in place of which the method finds something else."""
        return False

    @property
    def notes(self) -> list[str]:
        """What a user should know of a merge with these settings, a line each."""
        return []

    def count_problems(self, members: int) -> list[str]:
        """What is wrong with merging this many members."""
        return [] if members >= 2 else [f"members: {self.name} merges two or more, got {members}"]

    def number_problems(self, members: int, called: str = "members") -> list[str]:
        """Settings with one number a member that have another number of them.

        Args:
            members: how many are merged.
            called: what messages call them.
        """
        values = ((key, getattr(self, key, None)) for key in PER_MEMBER)
        given = [(key, len(numbers)) for key, numbers in values if numbers is not None and not isinstance(numbers, str)]
        listed = [*given, *lengths(self.parts)]
        return [f"{key}: {count} numbers for {members} {called}" for key, count in listed if count != members]

    @property
    def is_partial(self) -> bool:
        """Whether some parameters stay each member's own."""
        return bool(self.keep_layers) or self.merge_layers is not None or self.keep_top > 0

    def kept(self, names: Collection[str]) -> set[str]:
        """The parameters among ``names`` that stay each member's own (the head aside, for ``keep_top``)."""
        top = top_blocks(names, self.keep_top) if self.keep_top else set()
        return {
            name
            for name in names
            if name in top
            or covered(name, self.keep_layers)
            or (self.merge_layers is not None and not covered(name, self.merge_layers))
        }

    def gram_layers(self, names: Collection[str], layout: Layout) -> list[str]:
        """The linear layers whose Gram matrices are read when the parameters ``names`` are merged, if any are."""
        layers = [layer.name for name, layer in layout.linear.items() if name in names]
        if self.reads_experts:
            layers += [layer.name for name, stack in layout.stacked.items() if name in names for layer in stack.layers]
        return layers

    def averaged_maps(self, names: Collection[str], layout: Layout) -> list[str]:
        """The parameters among ``names`` that map inputs linearly and are yet averaged, as no linear layer's weight."""
        if not self.by_layer:
            return []
        listed = [*([] if self.reads_experts else layout.stacked), *layout.other_maps]
        return [name for name in listed if name in names]

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        found = []
        if isinstance(self.coefficients, str):  # what an interpolation gives may be a text
            found.append(f"coefficients: expected a list of numbers, got the text {self.coefficients}")
        elif self.coefficients is not None:
            if any(not math.isfinite(value) or value < 0 for value in self.coefficients):
                found.append(f"coefficients: expected numbers of at least 0, got {self.coefficients}")
            elif abs(sum(self.coefficients) - 1) > 1e-6:
                found.append(f"coefficients: expected a sum of 1, got {sum(self.coefficients):g}")
        if self.keep_top < 0:
            found.append(f"keep_top: expected at least 0, got {self.keep_top}")
        one_of("label_head", self.label_head, LABEL_HEADS, found)
        found += step_problems(self.followed_by)
        if self.parts and self.needs_text:
            found.append(f"parts: {self.name} refits layer after layer, all with the same settings; expected {{}}")
        elif self.parts:
            found += part_problems(self.parts, self._numbers(), self.whole_model, self._problems_with)
        return found

    def _numbers(self) -> list[str]:
        """The settings that a part of the model may have: real numbers, and one a member."""
        types = get_type_hints(type(self))
        real = [entry.name for entry in fields(self) if entry.init and types[entry.name] in (float, float | None)]
        return [*real, *(key for key in PER_MEMBER if key in types)]

    def _problems_with(self, settings: Mapping[str, Any]) -> list[str]:
        """What is wrong with the method where these settings are other ones, and right where they are not."""
        before = replace(self, parts={}).problems()
        return [problem for problem in replace(self, parts={}, **settings).problems() if problem not in before]

    def prepare(  # noqa: B027
        self,
        members: Sequence[MergeMember],
        names: Sequence[str],
        layout: Layout,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Look at all members once before the first of the parameters ``names`` is merged; most methods need not.

        Args:
            members: the members.
            names: the parameters that will be merged.
            layout: what is known of the architecture.
            base: weights of the model that the members were trained from, where the method asks for them.
        """

    @abstractmethod
    def merge(self, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
        """Merge one parameter.

        Returns:
            The merged tensor, of the same shape, and for a layer that was solved for, its diagnostics.
        """


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter's or layer's name matches any of the patterns (``*``, ``?``; case-sensitive)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


_METHODS: Registry[MergeMethod] = Registry("merge method", plugins.METHODS)
register_method = _METHODS.register
"""Class decorator: make a merge method known under a name."""


def method_types() -> Mapping[str, type[MergeMethod]]:
    """All merge methods by name, those of other packages among them."""
    return _METHODS.with_plugins()

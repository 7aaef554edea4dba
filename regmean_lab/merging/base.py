"""What every merge method is; what it is given and returns is in `parameters.py`.

A merge method is one file in this package and one YAML in ``conf/method``: a dataclass whose fields are the method's
settings, made known by :func:`register_method`. It is called once for each parameter and sees nothing else of the
models, so that memory does not grow with their number of layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_type_hints

from torch import Tensor

from regmean_lab.merging.followed_by import MEMBERS_OWN, named_steps, step_problems, steps_need_base
from regmean_lab.merging.parameters import (
    LayerDiagnostics,
    Layout,
    LinearLayer,
    MergeMember,
    Parameter,
)
from regmean_lab.merging.partial import covered, top_blocks
from regmean_lab.merging.parts import PER_MEMBER, lengths, part_problems
from regmean_lab.utils import plugins
from regmean_lab.utils.checks import at_least_one as at_least_one
from regmean_lab.utils.checks import fraction as fraction
from regmean_lab.utils.checks import one_of
from regmean_lab.utils.checks import positive as positive
from regmean_lab.utils.registry import Registry

if TYPE_CHECKING:
    from regmean_lab.merging.pieces import Pieces

LABEL_HEADS = ("merged", "row_mean")
MethodInstance = TypeVar("MethodInstance", bound="MergeMethod")


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

    without_tokens: ClassVar[tuple[str, ...]] = ()
    """Likewise, and other statistics, with which they need no counts of tokens."""

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
        return self.needs_base or steps_need_base(self.followed_by)

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
        """Whether it must have seen a whole parameter before it merges a piece of it: where it says what to see."""
        return type(self).survey is not MergeMethod.survey

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

    @property
    def partial_layers(self) -> dict[str, list[str] | None]:
        """The patterns by which parameters stay each member's own, by the setting that names them."""
        return {"keep_layers": self.keep_layers, "merge_layers": self.merge_layers}

    @property
    def is_one_model(self) -> bool:
        """Whether what is merged is the same model with each member: nothing stays a member's own, nor is added."""
        return not self.is_partial and all(name != MEMBERS_OWN for name, _ in named_steps(self.followed_by))

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


def unmatched_linear(patterns: Sequence[str], layout: Layout) -> list[str]:
    """The patterns that match no linear layer of a model, experts' among them."""
    layers = [layer.name for layer in layout.linear.values()]
    layers += [layer.name for stack in layout.stacked.values() for layer in stack.layers]
    return [text for text in patterns if not any(matches(name, [text]) for name in layers)]


_METHODS: Registry[MergeMethod] = Registry("merge method", plugins.METHODS)
register_method = _METHODS.register
"""Class decorator: make a merge method known under a name."""


def method_types() -> Mapping[str, type[MergeMethod]]:
    """All merge methods by name, those of other packages among them."""
    return _METHODS.with_plugins()

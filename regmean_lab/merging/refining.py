"""Merging layer by layer in the order of the forward pass, with members' text at hand.

What :func:`~regmean_lab.merging.merge_members` merges, parameter by parameter, is where it begins; then each linear
layer in turn is refitted on its inputs from the members' text, inputs that have come through the layers
refitted before it. Labels are not needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.depth import depths
from regmean_lab.merging.finishing import MergedParameter, follow
from regmean_lab.merging.followed_by import steps_of
from regmean_lab.merging.forward_pass import ForwardPass, stopping_at
from regmean_lab.merging.member_text import OWN as OWN
from regmean_lab.merging.member_text import PSEUDO as PSEUDO
from regmean_lab.merging.member_text import ReadsText
from regmean_lab.merging.merge import coefficients_of, mean_of
from regmean_lab.merging.parameters import LayerDiagnostics, Layout, LinearLayer, MergeError, MergeInputs, MergeMember
from regmean_lab.merging.row_groups import has_averaged_rows
from regmean_lab.statistics import Mask, RowSelection, all_finite
from regmean_lab.statistics.batches import device_of, evaluation_mode
from regmean_lab.utils.memory import give_back_free_memory

OWN_EXAMPLES = 600
PSEUDO_EXAMPLES = 3000


@dataclass(frozen=True)
class MemberText:
    """Text of one member, and a model that reads it.

    Attributes:
        model: a model with the member's architecture and head, on the device that merges. Its parameters are pointed at
            others; members may share one model, where they have the same head and keep nothing apart.
        batches: the text in batches.
        forward: runs ``model`` on a batch.
        mask: which rows of layers' inputs on a batch are real tokens.
    """

    model: nn.Module
    batches: Sequence[Any]
    forward: Callable[[Any], object]
    mask: Callable[[Any], Mask]


@dataclass(frozen=True)
class RefinedLayer:
    """A linear layer whose turn it is.

    Attributes:
        layer: the layer.
        layout: of the model.
        members: the members.
        coefficients: one weight a member; they add up to 1.
        merged: all merged parameters so far, by name; the layer's own among them.
        base: weights of the model that the members were trained from, where the method asks for them.
    """

    layer: LinearLayer
    layout: Layout
    members: Sequence[MergeMember]
    coefficients: Sequence[float]
    merged: Mapping[str, Tensor]
    base: Mapping[str, Tensor] | None = None

    @property
    def weight(self) -> str:
        """Name of its weight."""
        return f"{self.layer.name}.weight"

    @property
    def bias(self) -> str:
        """Name of its bias, which need not be there, or need not be merged."""
        return f"{self.layer.name}.bias"


@dataclass(frozen=True)
class LayerRows:
    """Inputs of the layer whose turn it is, on one batch of a member's text.

    Attributes:
        merged: in the merged model, shape [rows, in], float32 or wider.
        own: the same in the member itself, for methods that read them (``own_passes``).
    """

    merged: Tensor
    own: Tensor | None = None


class LayerSolver(Protocol):
    """Finds a layer's new parameters from the rows of its input."""

    def add(self, member: int, batches: Iterable[LayerRows]) -> None:
        """Take up all rows of one member's text, batch by batch; called once for each member, in order.

        Args:
            member: the member's number.
            batches: the layer's inputs on each batch.
        """

    def solve(self) -> tuple[dict[str, Tensor], LayerDiagnostics | None]:
        """The layer's new parameters by name, and the diagnostics of its solution."""


@dataclass
class RefiningMethod(ReadsText, ABC):
    """What a merge method has besides, if it replaces the layers of the merge one after the other.

    ``own_passes`` says whether the members themselves read their text as well.

    Attributes:
        examples: number of texts of each member that are read; None is 600, and 3000 of pseudo-text. What waits in
            front of a layer is in memory, and grows with it.
    """

    name: ClassVar[str]
    own_passes: ClassVar[bool] = False
    refits: ClassVar[bool] = True

    examples: int | None = None

    @property
    def text_examples(self) -> int:
        """How many texts of each member are read at most."""
        return self.examples or (PSEUDO_EXAMPLES if self.text == PSEUDO else OWN_EXAMPLES)

    @abstractmethod
    def refines(self, layer: LinearLayer) -> bool:
        """Whether a linear layer is replaced."""

    @abstractmethod
    def solver(self, layer: RefinedLayer) -> LayerSolver:
        """What finds a layer's new parameters."""


def refine_(
    method: MergeMethod,
    members: Sequence[MergeMember],
    texts: Iterable[MemberText],
    merged: MutableMapping[str, Tensor],
    layout: Layout,
    *,
    base: Mapping[str, Tensor] | None = None,
) -> list[LayerDiagnostics]:
    """Replace the linear layers of a merge, one after the other, in the order in which a forward pass calls them first.

    Every batch of every member runs through the model once and waits in front of each layer until it is replaced (with
    ``own_passes`` a second time through the member itself). So there are as many threads as batches, one of which runs
    at a time; in memory are the merged model, one member at a time, and what the waiting passes hold. Layers that no
    pass calls stay as they are, and so do those whose inputs are no rows of the text. Models run under the caller's
    autocast.

    Args:
        method: how; a :class:`RefiningMethod`.
        members: the members, whose weights are read for each layer again where the method has them read their text.
        texts: the text of each, in their order.
        merged: all parameters of the merge by name; those of the layers are replaced here, in the dtype they have.
            Parameters that are missing are each member's own.
        layout: of the model.
        base: weights of the model that the members were trained from, for methods that need them.

    Returns:
        Diagnostics of each layer's solution, in the order of the layers, for methods that tell.

    Raises:
        MergeError: when not all passes call the layers in the same order, for NaN or infinity in a layer's inputs or
            its new parameters, or a layer that cannot be solved. Names the layer.
    """
    assert isinstance(method, RefiningMethod)
    layers = {
        layer.name: layer
        for name, layer in layout.linear.items()
        if name in merged and method.refines(layer) and not has_averaged_rows(method, name, members, layout)
    }
    coefficients, diagnostics = coefficients_of(method, len(members)), []
    with ExitStack() as stack:
        readers: list[_Reader] = []
        hooked: set[int] = set()
        for member, text in zip(members, texts, strict=True):
            if id(text.model) not in hooked:
                stack.enter_context(evaluation_mode(text.model))
                stack.enter_context(stopping_at(text.model, layers))
                hooked.add(id(text.model))
            reader = _Reader(member, text, merged, own_passes=method.own_passes)
            stack.callback(reader.close)
            readers.append(reader)
        device = device_of(readers[0].text.model)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        while True:
            for reader in readers:
                reader.advance()
            name = _common_layer(method, readers)
            if name is None:
                break
            given = base if method.needs_base else None
            layer = RefinedLayer(layers[name], layout, members, coefficients, merged, given)
            solver = method.solver(layer)
            for number, reader in enumerate(readers):
                solver.add(number, reader.rows())
            values, solved = solver.solve()
            for key, value in values.items():
                if not all_finite(value):
                    raise MergeError(f"{key}: its new value has a NaN or infinity")
                merged[key].copy_(value)
            if solved is not None:
                diagnostics.append(solved)
            give_back_free_memory()
    if steps := steps_of(method.followed_by):
        deep = depths([*layout.linear, *merged])
        for name, value in merged.items():
            inputs = MergeInputs(members, coefficients, layout, value.device, base)
            refined = MergedParameter(name, value)
            found = follow(steps, refined, inputs, deep[name], partial(mean_of, method, name, inputs))
            value.copy_(found.value)
    return diagnostics


class _Reader:
    """The forward passes of one member's text, through the merged model and, if asked for, through the member."""

    def __init__(
        self, member: MergeMember, text: MemberText, merged: Mapping[str, Tensor], *, own_passes: bool
    ) -> None:
        self.member = member
        self.text = text
        self._targets = text.model.state_dict(keep_vars=True)
        self._dtypes = {name: target.dtype for name, target in self._targets.items()}
        self._merged = merged
        self._device = device_of(text.model)
        self._through_merged = [self._start(batch) for batch in text.batches]
        self._through_own = [self._start(batch) for batch in text.batches] if own_passes else []
        self._exchange(own=False)  # lets go of the weights that the model came with

    @property
    def passes(self) -> list[ForwardPass]:
        """All of them."""
        return [*self._through_merged, *self._through_own]

    def advance(self) -> None:
        """Let all passes go on to their next layer; the model has the merged parameters afterwards."""
        if self._through_own:
            self._exchange(own=True)
            for forward_pass in self._through_own:
                forward_pass.advance()
        self._exchange(own=False)
        for forward_pass in self._through_merged:
            forward_pass.advance()

    def rows(self) -> Iterator[LayerRows]:
        """The rows that count of the layer's input, one batch at a time: all of them are too many to have twice."""
        none: list[ForwardPass | None] = [None] * len(self._through_merged)
        own_passes = [*self._through_own] or none
        for merged, own in zip(self._through_merged, own_passes, strict=True):
            yield LayerRows(
                self._checked(merged, "the merged model feeds it"),
                None if own is None else self._checked(own, "it is fed"),
            )

    def close(self) -> None:
        """End all passes."""
        for forward_pass in self.passes:
            forward_pass.close()

    def _start(self, batch: Any) -> ForwardPass:
        return ForwardPass(lambda: self.text.forward(batch), RowSelection(self.text.mask(batch)), self._device)

    def _checked(self, forward_pass: ForwardPass, what: str) -> Tensor:
        rows = forward_pass.rows()
        if not all_finite(rows):
            layer = forward_pass.layer
            raise MergeError(f"layer {layer}: NaN or infinity in what {what} on the text of {self.member.name}")
        return rows.to(torch.promote_types(rows.dtype, torch.float32))

    def _exchange(self, *, own: bool) -> None:
        """Point the model's parameters at the member's own, or at the merged ones where there are any."""
        for name, target in self._targets.items():
            if not own and name in self._merged:
                value = self._merged[name]
            elif name in self.member.weights:
                value = self.member.weights[name]
            else:
                continue  # tied to another name, under which it is set
            target.data = value.detach().to(self._device, self._dtypes[name])


def _common_layer(method: MergeMethod, readers: Sequence[_Reader]) -> str | None:
    """The layer in front of which all passes stand; None when all have ended."""
    found = {forward_pass.layer for reader in readers for forward_pass in reader.passes}
    if len(found) > 1:
        names = ", ".join(sorted(name or "the end" for name in found))
        raise MergeError(
            f"{method.name} needs forward passes that call linear layers in the same order, whatever the text; "
            f"after the same layers, some came to {names}"
        )
    return found.pop() if found else None

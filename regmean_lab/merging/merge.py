"""Merging members parameter by parameter, or in pieces of a parameter where a method merges rows without the others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.depth import depths
from regmean_lab.merging.finishing import MergedParameter, follow
from regmean_lab.merging.followed_by import steps_of
from regmean_lab.merging.movement import with_movement
from regmean_lab.merging.parameters import Layout, MergeError, MergeInputs, MergeMember, TensorSettings
from regmean_lab.merging.partial import unmatched_layers
from regmean_lab.merging.parts import PER_MEMBER, name_problems, values_by_name
from regmean_lab.merging.pieces import (
    Pieces,
    blocks_of,
    is_floating,
    read_by_rows,
    read_parameter,
    whole_parameters,
)
from regmean_lab.merging.row_groups import average_rows, groups_of_rows, has_averaged_rows, has_groups, merge_groups
from regmean_lab.merging.side_by_side import Run, side_by_side
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.weights import tensor_shape
from regmean_lab.statistics import all_finite


def differences(method: MergeMethod, members: Sequence[MergeMember]) -> list[str]:
    """All reasons why the members' weights cannot be merged; reads names and shapes only.

    Parameters that stay each member's own (``method.kept``) may differ.
    """
    found = []
    first = members[0]
    names = set(first.weights) - method.kept(first.weights)
    for member in members[1:]:
        own = set(member.weights) - method.kept(member.weights)
        for name in sorted(names - own):
            found.append(f"{name}: in {first.name}, not in {member.name}")
        for name in sorted(own - names):
            found.append(f"{name}: in {member.name}, not in {first.name}")
        for name in sorted(names & own):
            one, other = tensor_shape(first.weights, name), tensor_shape(member.weights, name)
            if one != other:
                found.append(f"{name}: shape {one} in {first.name}, {other} in {member.name}")
    return found


def merge_members(
    method: MergeMethod,
    members: Sequence[MergeMember],
    layout: Layout,
    *,
    device: torch.device | str = "cpu",
    base: Mapping[str, Tensor] | None = None,
    settings: Callable[[str], TensorSettings] | None = None,
) -> Iterator[MergedParameter]:
    """Merge members, one parameter after the other.

    Arithmetic is float32 (float64 where members are), whatever the members' dtype. A row of a label output is merged
    over the members whose data annotates that label (over all of them, if none does), or averaged, as
    ``method.label_head`` says.

    Args:
        method: how to merge.
        members: two or more members with the same parameters (see :func:`differences`).
        layout: which parameters are linear layers' weights and which are label outputs.
        device: where to compute.
        base: weights of the model that the members were trained from, for methods that need them
            (``method.reads_base``); parameters that it lacks have no base.
        settings: by a parameter's name, how it is merged where that is not as ``method`` says; None is as the method's
            ``parts`` say.

    Yields:
        Every parameter that does not stay each member's own, in the order of the first member.

    Raises:
        MergeError: when members differ, a coefficient or the base is missing, a tensor has a NaN or infinity, or a
            layer cannot be solved. Names the tensor.
    """
    yield from whole_parameters(merge_in_pieces(method, members, layout, device=device, base=base, settings=settings))


def merge_in_pieces(
    method: MergeMethod,
    members: Sequence[MergeMember],
    layout: Layout,
    *,
    device: torch.device | str = "cpu",
    base: Mapping[str, Tensor] | None = None,
    settings: Callable[[str], TensorSettings] | None = None,
    finished: Callable[[MergedParameter], MergedParameter] | None = None,
) -> Iterator[MergedParameter]:
    """As :func:`merge_members`, but large parameters come in pieces, if their rows are merged without each other.

    Then there is never more than some pieces in memory. Where members' tensors are read when they are asked for, pieces
    are read and merged by as many threads as PyTorch computes with, while those before them are used.

    Args:
        method: how to merge.
        members: the members.
        layout: what is known of the architecture.
        device: where to compute.
        base: weights of the model that the members were trained from.
        settings: by a parameter's name, how it is merged.
        finished: what is done to each piece at last, by the same thread.

    Yields:
        As :func:`merge_members`; of a parameter in pieces, all of them one after the other, each with the parameter's
        name.
    """
    method = method.beginning
    coefficients = _checked(method, members, base)
    kept = method.kept(members[0].weights)
    names = [name for name in members[0].weights if name not in kept]
    given = base if method.needs_base else None
    if settings is None and method.parts:
        if found := name_problems(method.parts, names):
            raise MergeError("\n".join(f"method.{problem}" for problem in found))
        settings = part_settings(method, names)
    method.prepare(members, names, layout, given)
    # Of methods that refit layers afterwards, `refine_` does it at the end.
    steps = [] if method.refits else steps_of(method.followed_by)
    deep = depths([*layout.linear, *layout.stacked, *names])
    work = _Work(method, MergeInputs(members, coefficients, layout, torch.device(device), given), settings)
    done = finished or _as_it_is
    if not steps:
        yield from work.merged(names, done)
        return
    with closing(work.merged(names, _as_it_is)) as pieces:
        for parameter in whole_parameters(pieces):
            name = parameter.name
            inputs = replace(work.inputs, base=base).with_coefficients(work.settings_of(name).coefficients)
            yield done(follow(steps, parameter, inputs, deep[name], partial(mean_of, method, name, inputs)))


def _checked(method: MergeMethod, members: Sequence[MergeMember], base: Mapping[str, Tensor] | None) -> list[float]:
    """The members' coefficients, once everything goes together.

    Raises:
        MergeError: when it does not.
    """
    if found := differences(method, members):
        raise MergeError("the members cannot be merged:\n" + "\n".join(f"  - {line}" for line in found))
    if found := method.count_problems(len(members)):
        raise MergeError(found[0])
    if method.reads_base and base is None:
        what = method.name if method.needs_base else "followed_by"
        raise MergeError(f"{what} needs the weights of the model that the members were trained from (base)")
    coefficients = coefficients_of(method, len(members))
    everything = {name for member in members for name in member.weights}
    if found := unmatched_layers(method.partial_layers, everything):
        raise MergeError(found[0])
    return coefficients


def _as_it_is(parameter: MergedParameter) -> MergedParameter:
    return parameter


@dataclass(frozen=True)
class _Work:
    """A merge that is under way: what is the same for all parameters."""

    method: MergeMethod
    inputs: MergeInputs
    settings: Callable[[str], TensorSettings] | None

    def settings_of(self, name: str) -> TensorSettings:
        """How one parameter is merged, where that is not as the method says."""
        return TensorSettings() if self.settings is None else self.settings(name)

    def merged(
        self, names: Sequence[str], done: Callable[[MergedParameter], MergedParameter]
    ) -> Generator[MergedParameter]:
        """All parameters, those that are merged in pieces piece by piece."""
        if not self.method.elementwise or not read_by_rows(self.inputs.members):
            for name in names:
                yield done(self._whole(name))
            return
        with side_by_side(threads_for(self.inputs.device)) as run:
            yield from run(self._tasks(names, run, done))

    def _whole(self, name: str) -> MergedParameter:
        own = self.settings_of(name)
        method, inputs = own.applied(self.method), self.inputs.with_coefficients(own.coefficients)
        if method.reads_experts and name in inputs.layout.stacked:
            return _merge_experts(method, name, inputs, own)
        return merge_parameter(method, name, inputs, own=own)

    def _tasks(
        self, names: Sequence[str], run: Run, done: Callable[[MergedParameter], MergedParameter]
    ) -> Iterator[Callable[[], MergedParameter]]:
        """What merges each piece, in order; a parameter's pieces are looked at before, where the method must."""
        members, layout = self.inputs.members, self.inputs.layout
        for name in names:
            own = self.settings_of(name)
            method, inputs = own.applied(self.method), self.inputs.with_coefficients(own.coefficients)
            shape = tensor_shape(members[0].weights, name)
            blocks = blocks_of(shape, len(members)) if method.divisible(shape, layout.linear.get(name)) else []
            if method.surveys and has_groups(name, members, layout, inputs.base):
                blocks = []  # each group of rows is looked at by itself
            if len(blocks) <= 1:
                yield partial(_done, done, partial(self._whole, name))
                continue
            known = None
            if method.surveys and is_floating(members[0].weights, name):
                factors = _factors(method, own)
                parts = [partial(read_parameter, name, inputs, block, own=own, factors=factors) for block in blocks]
                known = method.survey(Pieces(parts[0](), parts, run))
            for block in blocks:
                merge = partial(merge_parameter, method, name, inputs, block, own=own, known=known)
                yield partial(_done, done, merge, shape[0])


def _done(
    done: Callable[[MergedParameter], MergedParameter], merge: Callable[[], MergedParameter], rows: int | None = None
) -> MergedParameter:
    merged = merge()
    return done(merged if rows is None else replace(merged, rows=rows))


def threads_for(device: torch.device) -> int:
    """Threads that read and merge pieces: as many as PyTorch computes with, or one that feeds an accelerator."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def _factors(method: MergeMethod, own: TensorSettings) -> Sequence[float] | None:
    return method.free_weights if own.weights is None else own.weights


def _merge_experts(method: MergeMethod, name: str, inputs: MergeInputs, own: TensorSettings) -> MergedParameter:
    """Merge a parameter that holds the layers of several experts, one after the other.

    Returns:
        The whole parameter, with the diagnostics of the worst-conditioned layer.
    """
    whole, solved = None, []
    for expert in range(inputs.layout.stacked[name].count):
        part = merge_parameter(method, name, inputs, expert=expert, own=own)
        if whole is None:
            whole = part.value.new_empty(tensor_shape(inputs.members[0].weights, name))
        whole[expert] = part.value
        if part.diagnostics is not None:
            solved.append(part.diagnostics)
    assert whole is not None
    return MergedParameter(name, whole, max(solved, key=lambda row: (row.jitter, row.condition), default=None))


def coefficients_of(method: MergeMethod, members: int) -> list[float]:
    """One weight a member, which add up to 1: the method's own, or equal ones.

    Raises:
        MergeError: for another number of them than of members.
    """
    if found := method.number_problems(members):
        raise MergeError(f"method.{found[0]}")
    return method.coefficients or [1 / members] * members


def part_settings(method: MergeMethod, names: Sequence[str]) -> Callable[[str], TensorSettings]:
    """How each parameter is merged, by what a method's ``parts`` say.

    Args:
        method: a method whose parts have no problems with these names.
        names: the parameters that are merged.
    """
    values = values_by_name(method.parts, names)

    def at(name: str) -> TensorSettings:
        own = values(name)
        shared = {key: value for key, value in own.items() if key not in PER_MEMBER}
        return TensorSettings(shared, coefficients=own.get("coefficients"), weights=own.get("weights"))

    return at


def mean_of(method: MergeMethod, name: str, inputs: MergeInputs) -> Tensor:
    """The mean of the members' values of a parameter, as ``method=simple`` merges them.

    Args:
        method: whose treatment of labels' rows is taken.
        name: the parameter's name.
        inputs: where it is read.
    """
    return merge_parameter(Simple(label_head=method.label_head), name, replace(inputs, base=None)).value


def merge_parameter(
    method: MergeMethod,
    name: str,
    inputs: MergeInputs,
    block: slice | None = None,
    expert: int | None = None,
    own: TensorSettings | None = None,
    known: Any = None,
) -> MergedParameter:
    """Merge one parameter, a block of its rows, or the layer of one of the experts that it holds.

    Args:
        method: how.
        name: the parameter's name.
        inputs: where it is read; what is computed is computed on their device.
        block: the rows; None for all of them.
        expert: the number of the expert.
        own: how this parameter is merged.
        known: what the method found out about the whole parameter.
    """
    own = own or TensorSettings()
    members, layout = inputs.members, inputs.layout
    parameter = read_parameter(name, inputs, block, expert, own, _factors(method, own))
    first, dtype = parameter.tensors[0], parameter.dtype
    if not first.is_floating_point():
        if any(not torch.equal(first, tensor) for tensor in parameter.tensors):
            raise MergeError(f"{name}: members have different values of dtype {dtype}, which cannot be averaged")
        return MergedParameter(name, first)
    if not method.one_at_a_time:
        parameter = replace(parameter, tensors=list(parameter.tensors))
    if known is not None:
        parameter = replace(parameter, known=known)
    diagnostics, groups = None, None
    if expert is None:
        groups = groups_of_rows(name, members, layout, inputs.base, len(first) if first.dim() else 0, block)
    if expert is None and has_averaged_rows(method, name, members, layout):
        value = average_rows(parameter, 0 if block is None else block.start)
    elif groups is None:
        value, diagnostics = method.merge(parameter)
        diagnostics = None if diagnostics is None else with_movement(diagnostics, parameter, value)
    else:
        value, diagnostics = merge_groups(method, parameter, groups)
    if not all_finite(value):
        raise MergeError(f"{name}: the merged tensor has a NaN or infinity")
    return MergedParameter(name, value.to(dtype or value.dtype), diagnostics)

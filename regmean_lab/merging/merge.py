"""Merging members parameter by parameter: one parameter of every member in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from regmean_lab.merging.base import (
    Layout,
    MergeError,
    MergeMember,
    MergeMethod,
    Parameter,
    TensorSettings,
)
from regmean_lab.merging.depth import depths
from regmean_lab.merging.finishing import MergedParameter, base_tensor, follow, working_tensor
from regmean_lab.merging.followed_by import steps_of
from regmean_lab.merging.member_tensors import MemberTensors
from regmean_lab.merging.movement import with_movement
from regmean_lab.merging.partial import covered
from regmean_lab.merging.parts import PER_MEMBER, name_problems, values_by_name
from regmean_lab.merging.row_groups import average_rows, groups_of_rows, has_averaged_rows, merge_groups
from regmean_lab.merging.weights import StoredWeights, tensor_rows, tensor_shape
from regmean_lab.statistics import all_finite

BLOCK_ELEMENTS = 1 << 22
"""Most elements, of all members together, that a method which merges each element by itself is given at a time."""


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
    method = method.beginning
    if found := differences(method, members):
        raise MergeError("the members cannot be merged:\n" + "\n".join(f"  - {line}" for line in found))
    if found := method.count_problems(len(members)):
        raise MergeError(found[0])
    if method.reads_base and base is None:
        what = method.name if method.needs_base else "followed_by"
        raise MergeError(f"{what} needs the weights of the model that the members were trained from (base)")
    coefficients = coefficients_of(method, len(members))
    everything = {name for member in members for name in member.weights}
    for setting, patterns in (("keep_layers", method.keep_layers), ("merge_layers", method.merge_layers or [])):
        if unmatched := [text for text in patterns if not any(covered(name, [text]) for name in everything)]:
            raise MergeError(f"method.{setting}: no module or parameter matches {', '.join(unmatched)}")
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
    for name in names:
        own = TensorSettings() if settings is None else settings(name)

        def finished(
            parameter: MergedParameter, shares: Sequence[float] = own.coefficients or coefficients
        ) -> MergedParameter:
            return follow(steps, parameter, members, shares, layout, torch.device(device), base, deep[parameter.name])

        here, shares = own.applied(method), own.coefficients or coefficients
        if here.reads_experts and name in layout.stacked:
            yield finished(_merge_experts(here, name, members, shares, layout, torch.device(device), given, own))
            continue
        blocks = _blocks(name, members) if here.elementwise else []
        if len(blocks) <= 1:
            yield finished(merge_parameter(here, name, members, shares, layout, torch.device(device), given, own=own))
            continue
        whole = None
        for block in blocks:
            part = merge_parameter(
                here, name, members, shares, layout, torch.device(device), given, block, own=own
            ).value
            if whole is None:
                whole = part.new_empty(tensor_shape(members[0].weights, name))
            whole[block] = part
        assert whole is not None
        yield finished(MergedParameter(name, whole))


def _merge_experts(
    method: MergeMethod,
    name: str,
    members: Sequence[MergeMember],
    coefficients: Sequence[float],
    layout: Layout,
    device: torch.device,
    base: Mapping[str, Tensor] | None,
    own: TensorSettings,
) -> MergedParameter:
    """Merge a parameter that holds the layers of several experts, one after the other.

    Returns:
        The whole parameter, with the diagnostics of the worst-conditioned layer.
    """
    whole, solved = None, []
    for expert in range(layout.stacked[name].count):
        part = merge_parameter(method, name, members, coefficients, layout, device, base, expert=expert, own=own)
        if whole is None:
            whole = part.value.new_empty(tensor_shape(members[0].weights, name))
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


def _blocks(name: str, members: Sequence[MergeMember]) -> list[slice]:
    """Parts of a parameter's rows of which all members' values together have at most ``BLOCK_ELEMENTS`` elements.

    None where it would have to be read whole anyway.
    """
    if not all(isinstance(member.weights, StoredWeights) for member in members):
        return []
    shape = tensor_shape(members[0].weights, name)
    if not shape or math.prod(shape) == 0:
        return []
    rows = max(1, BLOCK_ELEMENTS // (len(members) * math.prod(shape[1:])))
    return [slice(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]


def merge_parameter(
    method: MergeMethod,
    name: str,
    members: Sequence[MergeMember],
    coefficients: Sequence[float],
    layout: Layout,
    device: torch.device,
    base: Mapping[str, Tensor] | None,
    block: slice | None = None,
    expert: int | None = None,
    own: TensorSettings | None = None,
) -> MergedParameter:
    """Merge one parameter, a block of its rows, or the layer of one of the experts that it holds."""
    if expert is not None:
        block = slice(expert, expert + 1)

    def rows(weights: Mapping[str, Tensor]) -> Tensor:
        chosen = tensor_rows(weights, name, block)
        return chosen if expert is None else chosen[0]

    def read(number: int) -> Tensor:
        return working_tensor(members[number], rows(members[number].weights), name, device)

    stored = rows(members[0].weights)
    dtype, first = stored.dtype, working_tensor(members[0], stored, name, device)
    del stored
    tensors: Sequence[Tensor] = MemberTensors(first, read, len(members))
    if not dtype.is_floating_point:
        if any(not torch.equal(first, tensor) for tensor in tensors):
            raise MergeError(f"{name}: members have different values of dtype {dtype}, which cannot be averaged")
        return MergedParameter(name, first)
    if not method.one_at_a_time:
        tensors = list(tensors)
    start = base_tensor(base, name, first if expert is None else first[None], block)
    if expert is not None:
        start = None if start is None else start[0]
    layer = layout.linear.get(name) if expert is None else layout.stacked[name].layer(expert)
    own = own or TensorSettings()
    factors = method.free_weights if own.weights is None else own.weights
    parameter = Parameter(name, tensors, members, coefficients, layer, None, start, factors, own.members)
    diagnostics, groups = None, None
    if expert is None:
        groups = groups_of_rows(name, members, layout, base, len(first) if first.dim() else 0, block)
    if expert is None and has_averaged_rows(method, name, members, layout):
        value = average_rows(parameter, 0 if block is None else block.start)
    elif groups is None:
        value, diagnostics = method.merge(parameter)
        diagnostics = None if diagnostics is None else with_movement(diagnostics, parameter, value)
    else:
        value, diagnostics = merge_groups(method, parameter, groups)
    if not all_finite(value):
        raise MergeError(f"{name}: the merged tensor has a NaN or infinity")
    return MergedParameter(name, value.to(dtype), diagnostics)

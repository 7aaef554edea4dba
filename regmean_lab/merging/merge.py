"""Merging members parameter by parameter: one parameter of every member in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regmean_lab.merging.base import (
    LayerDiagnostics,
    Layout,
    MergeError,
    MergeMember,
    MergeMethod,
    Parameter,
)
from regmean_lab.merging.partial import covered
from regmean_lab.merging.weights import tensor_shape
from regmean_lab.statistics import all_finite


@dataclass(frozen=True)
class MergedParameter:
    """One merged parameter.

    Attributes:
        name: the parameter's name.
        value: its merged value, in the dtype of the first member, on the device that merged.
        diagnostics: how well its layer was posed, for methods that solve for it.
    """

    name: str
    value: Tensor
    diagnostics: LayerDiagnostics | None = None


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
) -> Iterator[MergedParameter]:
    """Merge members, one parameter after the other.

    Arithmetic is float32 (float64 where members are), whatever the members' dtype. A row of a label output is merged
    over the members whose data annotates that label (over all of them, if none does).

    Args:
        method: how to merge.
        members: two or more members with the same parameters (see :func:`differences`).
        layout: which parameters are linear layers' weights and which are label outputs.
        device: where to compute.
        base: weights of the model that the members were trained from, for methods that need them
            (``method.needs_base``); parameters that it lacks have no base.

    Yields:
        Every parameter that does not stay each member's own, in the order of the first member.

    Raises:
        MergeError: when members differ, a coefficient or the base is missing, a tensor has a NaN or infinity, or a
            layer cannot be solved. Names the tensor.
    """
    if found := differences(method, members):
        raise MergeError("the members cannot be merged:\n" + "\n".join(f"  - {line}" for line in found))
    if found := method.count_problems(len(members)):
        raise MergeError(found[0])
    if method.needs_base and base is None:
        raise MergeError(f"{method.name} needs the weights of the model that the members were trained from (base)")
    coefficients = method.coefficients or [1 / len(members)] * len(members)
    if len(coefficients) != len(members):
        raise MergeError(f"method.coefficients: {len(coefficients)} numbers for {len(members)} members")
    everything = {name for member in members for name in member.weights}
    for setting, patterns in (("keep_layers", method.keep_layers), ("merge_layers", method.merge_layers or [])):
        if unmatched := [text for text in patterns if not any(covered(name, [text]) for name in everything)]:
            raise MergeError(f"method.{setting}: no module or parameter matches {', '.join(unmatched)}")
    kept = method.kept(members[0].weights)
    names = [name for name in members[0].weights if name not in kept]
    given = base if method.needs_base else None
    method.prepare(members, names, layout, given)
    for name in names:
        stored = [member.weights[name] for member in members]
        dtype = stored[0].dtype
        tensors = [_working(*pair, name, torch.device(device)) for pair in zip(members, stored, strict=True)]
        if not dtype.is_floating_point:
            if any(not torch.equal(tensors[0], tensor) for tensor in tensors[1:]):
                raise MergeError(f"{name}: members have different values of dtype {dtype}, which cannot be averaged")
            yield MergedParameter(name, tensors[0])
            continue
        layer = layout.linear.get(name)
        start = base_tensor(given, name, tensors[0])
        parameter = Parameter(name, tensors, members, coefficients, layer, base=start)
        if name in layout.label_outputs and any(member.annotated is not None for member in members):
            value, diagnostics = _merge_label_rows(method, parameter)
        else:
            value, diagnostics = method.merge(parameter)
        if not all_finite(value):
            raise MergeError(f"{name}: the merged tensor has a NaN or infinity")
        yield MergedParameter(name, value.to(dtype), diagnostics)


def base_tensor(base: Mapping[str, Tensor] | None, name: str, like: Tensor) -> Tensor | None:
    """A parameter's value in the model that the members were trained from, or None where it has no such parameter.

    Args:
        base: that model's weights, or None.
        name: the parameter's name.
        like: its value in a member: the shape that is expected, and the dtype and device that are wanted.

    Raises:
        MergeError: for another shape, a NaN or infinity.
    """
    tensor = None if base is None else base.get(name)
    if tensor is None:
        return None
    if tensor.shape != like.shape:
        raise MergeError(f"{name}: shape {tuple(tensor.shape)} in the base model, {tuple(like.shape)} in the members")
    tensor = tensor.detach()
    if not all_finite(tensor):
        raise MergeError(f"{name}: NaN or infinity in the weights of the base model")
    return tensor.to(like)


def _working(member: MergeMember, tensor: Tensor, name: str, device: torch.device) -> Tensor:
    tensor = tensor.detach()
    if not tensor.dtype.is_floating_point:
        return tensor.to(device)
    if not all_finite(tensor):
        raise MergeError(f"{name}: NaN or infinity in the weights of {member.name}")
    return tensor.to(device, torch.promote_types(tensor.dtype, torch.float32))


def _merge_label_rows(method: MergeMethod, parameter: Parameter) -> tuple[Tensor, LayerDiagnostics | None]:
    """Merge each row over the members that annotate its label; rows with the same members are merged together.

    Returns:
        The merged tensor, and of the groups of rows that were solved the diagnostics of the one posed worst.
    """
    merged = torch.empty_like(parameter.tensors[0])
    solved = []
    for indices, rows in _rows_by_members(parameter.members, len(merged)).items():
        index = torch.tensor(rows, device=merged.device)
        total = sum(parameter.coefficients[i] for i in indices)
        part = replace(
            parameter,
            tensors=[parameter.tensors[i][index] for i in indices],
            members=[parameter.members[i] for i in indices],
            # Members that share a label may all have the coefficient 0.
            coefficients=[parameter.coefficients[i] / total if total > 0 else 1 / len(indices) for i in indices],
            rows=index,
            base=None if parameter.base is None else parameter.base[index],
        )
        merged[index], diagnostics = method.merge(part)
        if diagnostics is not None:
            solved.append(diagnostics)
    return merged, max(solved, key=lambda row: (row.jitter, row.condition), default=None)


def _rows_by_members(members: Sequence[MergeMember], count: int) -> Mapping[tuple[int, ...], list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    everyone = tuple(range(len(members)))
    for row in range(count):
        indices = tuple(i for i, member in enumerate(members) if member.annotated is None or member.annotated[row])
        groups.setdefault(indices or everyone, []).append(row)
    return groups

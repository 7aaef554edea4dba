"""Rows of a parameter that are merged over some members only: of labels or tokens that not all members have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.member_tensors import rows_of
from regmean_lab.merging.parameters import LayerDiagnostics, Layout, MergeMember, Parameter
from regmean_lab.merging.weights import present_rows


@dataclass(frozen=True)
class Rows:
    """Rows of a parameter that the same members have.

    Attributes:
        members: indices of those members.
        rows: indices of the rows.
        based: whether the model that the members were trained from has them.
        exact: whether the value of a single member is taken as it is.
    """

    members: tuple[int, ...]
    rows: list[int]
    based: bool = True
    exact: bool = False


def groups_of_rows(
    name: str,
    members: Sequence[MergeMember],
    layout: Layout,
    base: Mapping[str, Tensor] | None,
    count: int,
    block: slice | None,
) -> list[Rows] | None:
    """A parameter's rows, grouped by the members that they are merged over; None where those are all, for all rows."""
    masks = [present_rows(member.weights, name) for member in members]
    base_mask = None if base is None else present_rows(base, name)
    if any(mask is not None for mask in [*masks, base_mask]):
        chosen = block or slice(0, count)
        whole = torch.ones(count, dtype=torch.bool)
        listed = [(whole if mask is None else mask[chosen]).tolist() for mask in masks]
        based = (whole if base_mask is None else base_mask[chosen]).tolist()
        groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
        for row, (has_base, *has) in enumerate(zip(based, *listed, strict=True)):
            indices = tuple(number for number, one in enumerate(has) if one)
            groups.setdefault((indices, has_base), []).append(row)
        return [Rows(indices, rows, has_base, exact=True) for (indices, has_base), rows in groups.items()]
    if is_label_output(name, members, layout):
        start = 0 if block is None else block.start
        return [Rows(indices, rows) for indices, rows in rows_by_members(members, count, start).items()]
    return None


def has_groups(name: str, members: Sequence[MergeMember], layout: Layout, base: Mapping[str, Tensor] | None) -> bool:
    """Whether rows of a parameter are merged over some members only, or some of them are not in the base."""
    weights = [*(member.weights for member in members), *([] if base is None else [base])]
    return is_label_output(name, members, layout) or any(present_rows(own, name) is not None for own in weights)


def merge_groups(
    method: MergeMethod, parameter: Parameter, groups: Sequence[Rows]
) -> tuple[Tensor, LayerDiagnostics | None]:
    """Merge each group of rows over its members.

    Returns:
        The merged tensor, and of the groups of rows that were solved the diagnostics of the worst-conditioned one.
    """
    merged = torch.empty_like(parameter.tensors[0])
    solved = []
    for group in groups:
        index = torch.tensor(group.rows, device=merged.device)
        if group.exact and len(group.members) <= 1:
            merged[index] = parameter.tensors[group.members[0] if group.members else 0][index]
            continue
        total = sum(parameter.coefficients[i] for i in group.members)
        part = replace(
            parameter,
            tensors=rows_of(parameter.tensors, group.members, index),
            members=[parameter.members[i] for i in group.members],
            # Members that share a label may all have the coefficient 0.
            coefficients=[
                parameter.coefficients[i] / total if total > 0 else 1 / len(group.members) for i in group.members
            ],
            rows=index,
            base=None if parameter.base is None or not group.based else parameter.base[index],
            factors=None if parameter.factors is None else [parameter.factors[i] for i in group.members],
            own=[parameter.own[i] for i in group.members] if parameter.own else (),
        )
        merged[index], diagnostics = method.merge(part)
        if diagnostics is not None:
            solved.append(diagnostics)
    return merged, max(solved, key=lambda row: (row.jitter, row.condition), default=None)


def is_label_output(name: str, members: Sequence[MergeMember], layout: Layout) -> bool:
    """Whether a parameter has a row for each label, and members differ in which labels their data annotates."""
    return name in layout.label_outputs and any(member.annotated is not None for member in members)


def has_averaged_rows(method: MergeMethod, name: str, members: Sequence[MergeMember], layout: Layout) -> bool:
    """Whether a parameter is averaged row by row whatever the method (``label_head="row_mean"``)."""
    return method.label_head == "row_mean" and is_label_output(name, members, layout)


def rows_by_members(members: Sequence[MergeMember], count: int, start: int = 0) -> Mapping[tuple[int, ...], list[int]]:
    """Rows of a label output by the members that annotate their labels (all members, where none does).

    Args:
        members: the members.
        count: number of rows.
        start: the label of the first of them.
    """
    everyone = tuple(range(len(members)))
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in range(count):
        groups.setdefault(_annotating(members, start + row) or everyone, []).append(row)
    return groups


def _annotating(members: Sequence[MergeMember], label: int) -> tuple[int, ...]:
    """Indices of the members whose data annotates a label."""
    return tuple(i for i, member in enumerate(members) if member.annotated is None or member.annotated[label])


def average_rows(parameter: Parameter, start: int) -> Tensor:
    """A label output without the method, without coefficients: see ``MergeMethod.label_head``.

    Args:
        parameter: the weight of the output layer, of which each row is averaged over the members that annotate its
            label, or its bias, which is averaged over all members.
        start: the label of the first row.
    """
    if parameter.layer is None:
        return _plain_mean(parameter)
    merged = torch.zeros_like(parameter.tensors[0])
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in range(len(merged)):
        groups.setdefault(_annotating(parameter.members, start + row), []).append(row)
    for indices, rows in groups.items():
        if indices:
            index = torch.tensor(rows, device=merged.device)
            merged[index] = _plain_mean(replace(parameter, tensors=rows_of(parameter.tensors, indices, index)))
    return merged


def _plain_mean(parameter: Parameter) -> Tensor:
    """The mean of a parameter's tensors, all with the same weight."""
    count = len(parameter.tensors)
    return replace(parameter, coefficients=[1 / count] * count).mean()

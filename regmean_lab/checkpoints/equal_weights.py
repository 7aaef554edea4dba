"""Checkpoints that count twice or not at all: given twice, equal under other names, or equal to the base."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from regmean_lab.checkpoints.alignment import AlignedWeights
from regmean_lab.checkpoints.members import Member, equal_tensors
from regmean_lab.checkpoints.merge_base import aligned_base
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.weights import StoredWeights

if TYPE_CHECKING:
    from regmean_lab.checkpoints.merge import PreparedMerge


def repeated_problems(sources: Sequence[Source], bases: Mapping[str, Source]) -> list[str]:
    """Checkpoints that are given more than once, and how to weight them instead.

    Args:
        sources: the checkpoints.
        bases: of adapters, the base of each by the adapter's name.
    """
    groups: dict[Hashable, list[Source]] = {}
    for source in sources:
        base = bases.get(source.name)
        key = (source.folder.resolve(), source.is_adapter, None if base is None else base.folder.resolve())
        groups.setdefault(key, []).append(source)
    if len(groups) == len(sources):
        return []
    instead = "merge two or more different ones"
    if len(groups) > 1:
        shares = ",".join(f"{len(group) / len(sources):.3g}" for group in groups.values())
        instead = f"give each once, with its weight: method.coefficients=[{shares}] (in a recipe: weight)"
    return [
        f"checkpoints: {' and '.join(dict.fromkeys(source.reference for source in group))} "
        f"{'is' if len({source.reference for source in group}) == 1 else 'are one checkpoint, which is'} given "
        f"{len(group)} times; {instead}"
        for group in groups.values()
        if len(group) > 1
    ]


def equal_warnings(prepared: PreparedMerge) -> list[str]:
    """Members with equal weights, and those that are equal to the base of task vectors.

    In the core space of adapters, where no weights of layers are read, their files are compared.
    """
    if prepared.request.adapter is not None and prepared.request.adapter.space == "core":
        return _equal_lines(_equal_adapters(prepared.members))
    names, weights = prepared.agreement.names, dict[str, StoredWeights]()
    for member, orders in zip(prepared.members, prepared.agreement.orders, strict=True):
        weights[member.name] = AlignedWeights(member.weights, {name: name for name in names}, orders)
    untrained = list[str]()
    try:
        groups = equal_groups(weights, names)
        if prepared.modules is not None:
            groups = [
                part
                for group in groups
                for part in equal_groups(
                    {name: prepared.modules.weights(name) for name in group}, prepared.modules.names
                )
            ]
        if prepared.base is not None and prepared.request.method.reads_base:
            base = aligned_base(prepared.base, prepared.lead, names)
            untrained = [name for name, own in weights.items() if equal_to_base(own, base, names)]
    except MergeError:
        return []  # such as a file that is cut off meanwhile: told when it is merged
    return [*_equal_lines(groups), *_base_lines(untrained)]


def _equal_adapters(members: Sequence[Member]) -> list[list[str]]:
    """Adapters whose files hold equal tensors, in groups of two or more."""
    files = {member.name: FileWeights(member.adapter.tensors) for member in members if member.adapter is not None}
    alike: dict[frozenset[str], dict[str, StoredWeights]] = {}
    for name, own in files.items():
        alike.setdefault(frozenset(own), {})[name] = own
    return [group for names, some in alike.items() for group in equal_groups(some, sorted(names))]


def equal_groups(members: Mapping[str, StoredWeights], names: Sequence[str]) -> list[list[str]]:
    """Members with equal values in all tensors of these names, in groups of two or more.

    A row of a tensor is read after the other until all members are told apart; only those that no such row tells apart
    are read whole, some rows at a time.

    Args:
        members: weights by the name of the member, all with rows in the same order.
        names: the tensors, which every member has.
    """

    def row(name: str) -> Callable[[str], Hashable]:
        return lambda member: _middle(members[member], name)

    groups = [list(members)]
    for name in names:
        groups = [part for group in groups for part in _apart(group, row(name))]
        if not groups:
            return []
    return [part for group in groups for part in _equal_wholly(group, members, names)]


def equal_to_base(weights: StoredWeights, base: StoredWeights, names: Collection[str]) -> bool:
    """Whether a member has the base's values in all tensors of these names that the base has."""
    shared = [name for name in names if name in base]
    if not shared or any(_middle(weights, name) != _middle(base, name) for name in shared):
        return False
    return all(equal_tensors(weights, name, name, base) for name in shared)


def _equal_lines(groups: Sequence[Sequence[str]]) -> list[str]:
    """What a user is told of members with equal weights."""
    return [
        f"{' and '.join(group)} have equal weights in everything that is merged, so that one model counts "
        f"{len(group)} times; if that is not meant, leave one out"
        for group in groups
    ]


def _base_lines(names: Sequence[str]) -> list[str]:
    """What a user is told of members that are equal to the base of task vectors."""
    return [
        f"{name} has the weights of the base in everything that the base has: its task vector is zero, as of one "
        "that has learned nothing; if that is not meant, leave it out, or give the model that it was trained from"
        for name in names
    ]


def _apart(group: Sequence[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """The parts of a group with equal keys, without those that are alone."""
    parts: dict[Hashable, list[str]] = {}
    for member in group:
        parts.setdefault(key(member), []).append(member)
    return [part for part in parts.values() if len(part) > 1]


def _equal_wholly(group: Sequence[str], members: Mapping[str, StoredWeights], names: Sequence[str]) -> list[list[str]]:
    """The parts of a group whose members are equal, each compared with the first of every part."""
    parts: list[list[str]] = []
    for member in group:
        for part in parts:
            if all(equal_tensors(members[part[0]], name, name, members[member]) for name in names):
                part.append(member)
                break
        else:
            parts.append([member])
    return [part for part in parts if len(part) > 1]


def _middle(weights: StoredWeights, name: str) -> tuple[Hashable, ...]:
    """Shape of a tensor, and the values of the row in its middle."""
    shape = weights.shape(name)
    if not shape:
        return shape, _values(weights[name])
    return shape, _values(weights.rows(name, shape[0] // 2, min(shape[0] // 2 + 1, shape[0])))


def _values(tensor: Tensor) -> tuple[float, ...]:
    return tuple(tensor.flatten().tolist())

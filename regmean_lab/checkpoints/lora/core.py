"""Merging adapters in their core space: the factors of a layer at a time, and never its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from regmean_lab.checkpoints.lora.folder import Change
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.low_rank import CoreSpace
from regmean_lab.merging.merge import merge_members
from regmean_lab.merging.parameters import Layout, LinearLayer, MergeMember, TensorSettings
from regmean_lab.merging.weights import StoredWeights


def core_layers(members: Sequence[Member], names: Sequence[str]) -> list[str]:
    """The weights of linear layers that adapters change by factors alone.

    Args:
        members: the adapters.
        names: names of the weights of linear layers.
    """
    found = []
    for name in names:
        adapters = [(member.adapter, member.own_names.get(name, name)) for member in members]
        factored = [adapter is not None and own in adapter.factors for adapter, own in adapters]
        replaced = [adapter is not None and own in adapter.replaced for adapter, own in adapters]
        if any(factored) and not any(replaced):
            found.append(name)
    return found


def untouched(members: Sequence[Member], names: Sequence[str]) -> set[str]:
    """The parameters that no adapter changes."""
    return {
        name
        for name in names
        if not any(
            member.own_names.get(name, name) in changed
            for member in members
            if (adapter := member.adapter) is not None
            for changed in (adapter.factors, adapter.replaced, adapter.token_rows)
        )
    }


def merged_cores(
    method: MergeMethod,
    members: Sequence[Member],
    names: Sequence[str],
    rank: int,
    device: torch.device | str = "cpu",
    settings: Callable[[str], TensorSettings] | None = None,
) -> Iterator[tuple[str, Change]]:
    """Merge the cores of linear layers' factors, and give each merged change as factors.

    The method merges cores as it merges weights: the base's core is zero, so that a core is its task vector.

    Args:
        method: how.
        members: the adapters.
        names: weights of linear layers, see :func:`core_layers`.
        rank: largest rank of the factors.
        device: where to compute.
        settings: by a parameter's name, how it is merged where that is not as ``method`` says.
    """
    spaces = _Spaces(members, torch.device(device))
    names = [name for name in names if min(spaces.at(name).shape)]  # B is zero before training
    views = [MergeMember(member.name, _Cores(spaces, number, names)) for number, member in enumerate(members)]
    layout = Layout({name: LinearLayer(name) for name in names})
    merged = merge_members(method, views, layout, device=device, base=_Cores(spaces, None, names), settings=settings)
    for parameter in merged if names else ():
        if parameter.value.any():
            yield parameter.name, spaces.at(parameter.name).truncated(parameter.value, rank)


class _Spaces:
    """The core space of each layer, the last one kept.

    Args:
        members: the adapters.
        device: where to compute.
    """

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        self.members = members
        self.device = device
        self._name = ""
        self._space: CoreSpace | None = None
        self._numbers: dict[int, int] = {}

    def at(self, name: str) -> CoreSpace:
        """The core space of a layer, by the name of its weight."""
        if self._space is None or name != self._name:
            factors: list[tuple[Tensor, Tensor]] = []
            self._numbers = {}
            for number, member in enumerate(self.members):
                if (part := self._factors(member, name)) is not None:
                    self._numbers[number] = len(factors)
                    factors.append(part)
            self._name, self._space = name, CoreSpace(factors)
        return self._space

    def core(self, name: str, member: int) -> Tensor:
        """The core of a member's change of a layer; zero where it does not change it."""
        space = self.at(name)
        number = self._numbers.get(member)
        return space.left.new_zeros(space.shape) if number is None else space.core(number)

    def _factors(self, member: Member, name: str) -> tuple[Tensor, Tensor] | None:
        own = member.own_names.get(name, name)
        assert member.adapter is not None
        if own not in member.adapter.factors:
            return None
        files = FileWeights(member.adapter.tensors)
        a, b = (files[part] for part in member.adapter.factors[own])
        dtype = torch.promote_types(a.dtype, torch.float32)
        return b.to(self.device, dtype) * member.adapter.scales[own], a.to(self.device, dtype)


class _Cores(StoredWeights):
    """One member's cores as weights of its layers, or those of the base, which are zero."""

    concurrent: ClassVar[bool] = False  # the space of one layer at a time is kept

    def __init__(self, spaces: _Spaces, member: int | None, names: Sequence[str]) -> None:
        self._spaces = spaces
        self._member = member
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> Tensor:
        """The core of one layer."""
        if self._member is None:
            space = self._spaces.at(name)
            return space.left.new_zeros(space.shape)
        return self._spaces.core(name, self._member)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a layer."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Names of the layers' weights."""
        return iter(self._names)

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a layer's core."""
        return self._spaces.at(name).shape

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a core."""
        return self[name][start:stop]

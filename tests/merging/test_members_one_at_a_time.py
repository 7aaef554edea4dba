"""Methods that go over members read one tensor at a time: memory does not grow with their number."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from merging_members import LAYOUT, SHAPES, Fishers, Grams, merged, random_member
from torch import Tensor

from regmean_lab.merging import MergeMember, MergeMethod
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.member_tensors import MemberTensors, rows_of
from regmean_lab.merging.regmean import RegMean


class Alive:
    """Counts bytes of the tensors that were given out and that something still holds."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def give(self, stored: Tensor) -> Tensor:
        given = stored.clone()
        size = given.nbytes
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(given.untyped_storage(), self.forget, size)
        return given

    def forget(self, size: int) -> None:
        self.now -= size


class Copies(Mapping[str, Tensor]):
    """Gives a new tensor each time, as a file does."""

    def __init__(self, tensors: Mapping[str, Tensor], alive: Alive) -> None:
        self.tensors, self.alive = tensors, alive

    def __getitem__(self, name: str) -> Tensor:
        return self.alive.give(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def on_disk(member: MergeMember, alive: Alive) -> MergeMember:
    assert isinstance(member.gram, Grams)
    assert isinstance(member.fisher, Fishers)
    return replace(
        member,
        weights=Copies(member.weights, alive),
        gram=Grams(Copies(member.gram.matrices, alive)),
        fisher=Fishers(Copies(member.fisher.diagonals, alive)),
    )


METHODS: list[MergeMethod] = [
    RegMean(),
    RegMean(diagonal=True),
    RegMean(regularization="shrinkage"),
    RegMean(regularization="ridge"),
    Fisher(),
    Fisher(normalization="model"),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("annotated", [False, True])
def test_as_much_memory_for_many_members_as_for_few(method: MergeMethod, annotated: bool) -> None:
    labels = SHAPES["head.bias"][0]
    most = []
    for count in (6, 18):
        alive = Alive()
        masks = [
            tuple(label % 3 != seed % 3 for label in range(labels)) if annotated else None for seed in range(count)
        ]
        members = [random_member(seed, annotated=mask) for seed, mask in enumerate(masks)]
        values = merged(method, [on_disk(member, alive) for member in members])
        wanted = merged(method, members)
        assert all(torch.equal(values[name], wanted[name]) for name in SHAPES)
        most.append(alive.most)
    assert most[0] == most[1]


def test_a_method_that_compares_members_holds_them_all() -> None:
    """Otherwise the test above could not fail."""
    alive = Alive()
    tensors = [alive.give(torch.ones(10)) for _ in range(4)]
    assert alive.most == 160
    del tensors
    assert alive.now == 0


def test_tensors_of_members_are_a_sequence() -> None:
    tensors = MemberTensors(torch.zeros(2, 1), lambda number: torch.full((2, 1), float(number)), 4)
    assert len(tensors) == 4
    assert [float(tensor[0]) for tensor in tensors] == [0, 1, 2, 3]
    assert [float(tensor[0]) for tensor in tensors[1:3]] == [1, 2]
    assert float(tensors[-1][0]) == 3
    with pytest.raises(IndexError):
        tensors[4]
    rows = rows_of(tensors, [2, 3], torch.tensor([1]))
    assert [(tuple(row.shape), float(row)) for row in rows] == [((1, 1), 2.0), ((1, 1), 3.0)]
    assert [float(row) for row in rows_of(list(tensors), [0, 3], torch.tensor([1]))] == [0.0, 3.0]


def test_layout_has_linear_layers_and_others() -> None:
    """So that both ways through a method are gone."""
    assert set(LAYOUT.linear) < set(SHAPES)

"""Weights that are read by rows: merged in blocks, and over the members that have each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeMember, MergeMethod, merge_members, pieces
from regmean_lab.merging.breadcrumbs import Breadcrumbs
from regmean_lab.merging.dare import Dare
from regmean_lab.merging.della import Della
from regmean_lab.merging.karcher import Karcher
from regmean_lab.merging.model_stock import ModelStock
from regmean_lab.merging.multislerp import MultiSlerp
from regmean_lab.merging.nuslerp import NuSlerp
from regmean_lab.merging.sce import Sce
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.slerp import Slerp
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties
from regmean_lab.merging.weights import StoredWeights

NO_LAYERS = Layout({})


class Rows(StoredWeights):
    """Tensors in memory that remember how many elements were read at a time."""

    def __init__(self, tensors: dict[str, Tensor], present: dict[str, Tensor] | None = None) -> None:
        self.tensors = tensors
        self.masks = present or {}
        self.largest = 0
        self.lengths: list[tuple[str, int]] = []

    def __getitem__(self, name: str) -> Tensor:
        self.lengths.append((name, len(self.tensors[name]) if self.tensors[name].dim() else 1))
        return self.noted(self.tensors[name])

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        self.lengths.append((name, stop - start))
        return self.noted(self.tensors[name][start:stop])

    def present(self, name: str) -> Tensor | None:
        return self.masks.get(name)

    def noted(self, tensor: Tensor) -> Tensor:
        self.largest = max(self.largest, tensor.numel())
        return tensor


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "table": torch.randn(37, 5, generator=generator),
        "bias": torch.randn(91, generator=generator),
        "step": torch.arange(60),
        "scale": torch.randn((), generator=generator),
    }


def merged(method: MergeMethod, members: list[Any], base: Any = None, layout: Layout = NO_LAYERS) -> dict[str, Tensor]:
    listed = [MergeMember(f"m{number}", weights) for number, weights in enumerate(members)]
    return {part.name: part.value for part in merge_members(method, listed, layout, base=base)}


EXACT: list[MergeMethod] = [
    Simple(coefficients=[0.2, 0.3, 0.5]),
    TaskArithmetic(),
    Ties(),
    Ties(scope="parameter", density=0.37),
    Dare(drop_rate=0.4),
    Dare(then="ties", seed=3),
    Breadcrumbs(),
    Breadcrumbs(density=0.4, large=0.1, elect_signs=True),
    Sce(density=0.3),
    Sce(density=1),
]
SUMMED: list[MergeMethod] = [Karcher(), MultiSlerp(), MultiSlerp(from_base=True), ModelStock()]
"""What they know of a whole parameter are sums, whose rounding depends on the pieces."""


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("method", [*EXACT, *SUMMED], ids=str)
@pytest.mark.parametrize("rounded", [False, True])
def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch, method: MergeMethod, rounded: bool) -> None:
    """Where many values are equal, too."""
    states, base = [drawn(seed) for seed in range(3)], drawn(9)
    if rounded:
        for state in (*states, base):
            state.update({name: (2 * value).round() / 2 for name, value in state.items() if value.is_floating_point()})
    whole = merged(method, states, base)
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 60)
    members, start = [Rows(state) for state in states], Rows(base)
    parts = merged(method, members, start)
    for name, value in whole.items():
        if method in EXACT:
            assert torch.equal(parts[name], value)
        else:
            torch.testing.assert_close(parts[name], value, rtol=1e-6, atol=1e-7)
    assert max(weights.largest for weights in [*members, start]) <= 20


@pytest.mark.parametrize("method", [Slerp(coefficients=[0.3, 0.7]), NuSlerp(), NuSlerp(from_base=True)], ids=str)
def test_pieces_of_two(monkeypatch: pytest.MonkeyPatch, method: MergeMethod) -> None:
    states, base = [drawn(seed) for seed in range(2)], drawn(9)
    whole = merged(method, states, base)
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 60)
    members = [Rows(state) for state in states]
    parts = merged(method, members, Rows(base))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-6, atol=1e-7)
    assert max(weights.largest for weights in members) <= 30


BY_ROW: list[MergeMethod] = [
    Della(drop_rate=0.4, window=0.3),
    ModelStock(by_row=True),
    NuSlerp(flatten=False, from_base=True),
    NuSlerp(flatten=False, by_column=True),
]


@pytest.mark.parametrize("method", BY_ROW, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_merged_whole(monkeypatch: pytest.MonkeyPatch, method: MergeMethod, transposed: bool) -> None:
    layout = Layout({"table": LinearLayer("table", transposed=transposed)})
    states, base = [drawn(seed) for seed in range(2)], drawn(9)
    whole = merged(method, states, base, layout)
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 60)
    members = [Rows(state) for state in states]
    parts = merged(method, members, Rows(base), layout)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-6, atol=1e-7)
    cut = max(rows for name, rows in members[0].lengths if name == "table") < 37
    assert cut == method.divisible((37, 5), layout.linear["table"])


def test_fewer_elements_of_each_for_more_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 60)
    for method in (Ties(), Dare(), Breadcrumbs(), TaskArithmetic()):
        members = [Rows(drawn(seed)) for seed in range(12)]
        merged(method, members, Rows(drawn(99)))
        assert max(weights.largest for weights in members) <= 5


@pytest.mark.parametrize("block", [1 << 20, 30])
def test_rows_are_merged_over_the_members_that_have_them(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", block)
    states, base = [{"table": drawn(seed)["table"]} for seed in range(3)], {"table": drawn(9)["table"]}
    generator = torch.Generator().manual_seed(0)
    masks = [torch.ones(37, dtype=torch.bool), *(torch.rand(37, generator=generator) < 0.5 for _ in range(2))]
    based = torch.rand(37, generator=generator) < 0.7
    members = [
        Rows({"table": torch.where(mask[:, None], state["table"], torch.tensor(1e6))}, {"table": mask})
        for state, mask in zip(states, masks, strict=True)
    ]
    start = Rows({"table": torch.where(based[:, None], base["table"], torch.tensor(1e6))}, {"table": based})
    value = merged(TaskArithmetic(scaling=0.5), members, start)["table"]
    kinds = set()
    for row in range(37):
        own = [state["table"][row].double() for state, mask in zip(states, masks, strict=True) if mask[row]]
        kinds.add((len(own), bool(based[row])))
        if len(own) == 1:
            assert torch.equal(value[row], states[0]["table"][row])
            continue
        expected = sum(own) / len(own)
        if based[row]:
            zero = base["table"][row].double()
            expected = zero + 0.5 * sum(vector - zero for vector in own)
        assert torch.allclose(value[row].double(), torch.as_tensor(expected), atol=1e-5)
    assert kinds == {(count, has) for count in (1, 2, 3) for has in (False, True)}


@pytest.mark.parametrize("label_head", ["merged", "row_mean"])
def test_label_rows_in_blocks_are_those_of_their_labels(monkeypatch: pytest.MonkeyPatch, label_head: str) -> None:
    layout = Layout({"head.weight": LinearLayer("head")}, frozenset({"head.weight", "head.bias"}))
    generator = torch.Generator().manual_seed(0)
    states = [
        {"head.weight": torch.randn(30, 4, generator=generator), "head.bias": torch.randn(30, generator=generator)}
        for _ in range(2)
    ]
    known = [tuple(label % 3 != number for label in range(30)) for number in (0, 1)]
    members = [
        MergeMember(f"m{number}", Rows(state), annotated=labels)
        for number, (state, labels) in enumerate(zip(states, known, strict=True))
    ]
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 56)  # seven rows of both weights
    parts = merge_members(Simple(label_head=label_head), members, layout)
    value = {part.name: part.value for part in parts}
    for name in layout.label_outputs:
        first, second = (state[name] for state in states)
        mean = (first + second) / 2
        by_label = [second, first, mean]  # who annotates labels 0, 1, 2, 3, …
        if name == "head.bias" and label_head == "row_mean":
            by_label = [mean, mean, mean]
        expected = torch.stack([by_label[label % 3][label] for label in range(30)])
        torch.testing.assert_close(value[name], expected)

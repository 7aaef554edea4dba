"""Weights that are read by rows: merged in blocks, and over the members that have each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from regmean_lab.merging import Layout, LinearLayer, MergeMember, MergeMethod, merge_members, pieces
from regmean_lab.merging.simple import Simple
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

    def __getitem__(self, name: str) -> Tensor:
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


def merged(method: MergeMethod, members: list[Any], base: Any = None) -> dict[str, Tensor]:
    listed = [MergeMember(f"m{number}", weights) for number, weights in enumerate(members)]
    return {part.name: part.value for part in merge_members(method, listed, NO_LAYERS, base=base)}


@pytest.mark.parametrize("method", [Simple(coefficients=[0.2, 0.3, 0.5]), TaskArithmetic()])
def test_blocks_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, method: MergeMethod) -> None:
    states, base = [drawn(seed) for seed in range(3)], drawn(9)
    whole = merged(method, states, base)
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 60)
    members, start = [Rows(state) for state in states], Rows(base)
    parts = merged(method, members, start)
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert max(weights.largest for weights in [*members, start]) <= 20


def test_methods_that_need_whole_tensors_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    states, base = [drawn(seed) for seed in range(2)], drawn(9)
    whole = merged(Ties(), states, base)
    monkeypatch.setattr(pieces, "BLOCK_ELEMENTS", 10)
    parts = merged(Ties(), [Rows(state) for state in states], Rows(base))
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


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

"""Layers with the same inputs share one factorised system, and how often a merge waits for numbers of a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from regmean_lab.merging import Layout, MergeMember, finishing, gram_sources, linear_algebra, merge_members
from regmean_lab.merging import layer_systems as systems
from regmean_lab.merging import movement as movements
from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.dare import Dare
from regmean_lab.merging.finishing import MergedParameter
from regmean_lab.merging.parameters import LinearLayer
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.statistics.gram import GramStatistics

SIZE = 12
LAYERS = ("query", "key", "value", "output")
"""The first three have the same inputs."""


class Unshared:
    """Gram matrices of which nobody tells that layers share them."""

    def __init__(self, statistics: GramStatistics) -> None:
        self._statistics = statistics

    def matrix(self, layer: str) -> Tensor:
        return self._statistics.matrix(layer)


def statistics(seed: int) -> GramStatistics:
    generator = torch.Generator().manual_seed(100 + seed)
    rows = {layer: torch.randn(40, SIZE, generator=generator) for layer in ("query", "output")}
    matrices = {layer: own.T @ own / 40 for layer, own in rows.items()}
    shared = {layer: "output" if layer == "output" else "query" for layer in LAYERS}
    return GramStatistics(matrices, shared, dict.fromkeys(matrices, 40), 40, 1)


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in LAYERS:
        found[f"{layer}.weight"] = torch.randn(5, SIZE, generator=generator)
        found[f"{layer}.bias"] = torch.randn(5, generator=generator)
    return found


LAYOUT = Layout(linear={f"{layer}.weight": LinearLayer(layer) for layer in LAYERS})


def members(shared: bool = True, count: int = 2) -> list[MergeMember]:
    return [
        MergeMember(f"m{seed}", weights(seed), statistics(seed) if shared else Unshared(statistics(seed)))
        for seed in range(count)
    ]


def merged(method: MergeMethod, given: list[MergeMember]) -> dict[str, MergedParameter]:
    base: Mapping[str, Tensor] = weights(9)
    return {part.name: part for part in merge_members(method, given, LAYOUT, base=base)}


@pytest.fixture
def factorised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of the systems that were factorised."""
    found: list[int] = []

    class Counted(linear_algebra.PositiveSystem):
        def __init__(self, matrix: Tensor, *arguments: Any, **named: Any) -> None:
            found.append(len(matrix))
            super().__init__(matrix, *arguments, **named)

    monkeypatch.setattr(systems, "PositiveSystem", Counted)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"off_diagonal": 1.0},
        {"regularization": "shrinkage"},
        {"regularization": "ridge", "ridge_towards": "base"},
        {"coefficients": [0.2, 0.3, 0.5]},
    ],
    ids=str,
)
def test_what_is_shared_is_factorised_once_and_gives_the_same_bits(
    settings: dict[str, Any], factorised: list[int]
) -> None:
    together = merged(RegMean(**settings), members(count=3))
    assert len(factorised) == 2
    apart = merged(RegMean(**settings), members(shared=False, count=3))
    assert len(factorised) == 2 + len(LAYERS)
    for name, part in apart.items():
        assert torch.equal(together[name].value, part.value)
        assert together[name].diagnostics == part.diagnostics
        assert part.diagnostics is None or part.diagnostics.layer == name.removesuffix(".weight")


def test_layers_with_settings_of_their_own_have_systems_of_their_own(factorised: list[int]) -> None:
    parts = {"key": {"off_diagonal": 0.5}}
    together = merged(RegMean(parts=parts), members())
    assert len(factorised) == 4  # after the key, that of the query is no longer there
    apart = merged(RegMean(parts=parts), members(shared=False))
    assert all(torch.equal(together[name].value, part.value) for name, part in apart.items())


def test_layers_that_only_some_members_share_are_solved_apart(factorised: list[int]) -> None:
    one, other = members()
    mixed = [one, MergeMember("m1", other.weights, Unshared(statistics(1)))]
    expected = merged(RegMean(), members(shared=False))
    factorised.clear()
    found = merged(RegMean(), mixed)
    assert len(factorised) == 4
    assert all(torch.equal(found[name].value, part.value) for name, part in expected.items())


def test_nothing_is_kept_after_a_merge_and_other_statistics_count_in_the_next(factorised: list[int]) -> None:
    method = RegMean()
    merged(method, members())
    assert method._systems._system is None
    others = [MergeMember(own.name, own.weights, statistics(50 + n)) for n, own in enumerate(members())]
    again = merged(method, others)
    fresh = merged(RegMean(), others)
    assert all(torch.equal(again[name].value, part.value) for name, part in fresh.items())
    assert len(factorised) == 6


class Waits(TorchDispatchMode):
    """Counts numbers that are read from tensors one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.counts["read"] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Counts for how many numbers a device would be waited for that weights and statistics do not lie on."""
    counting = Waits()
    fetched = linear_algebra.fetched

    def counted(numbers: Any) -> list[float]:
        counting.counts["fetched"] += 1
        return fetched(numbers)

    for module in (linear_algebra, systems, movements):
        monkeypatch.setattr(module, "fetched", counted)
    monkeypatch.setattr(linear_algebra, "waits_for_numbers", lambda device: True)
    # These look at weights and matrices where they are read, before they come to the device.
    for module in (finishing, gram_sources):
        monkeypatch.setattr(module, "all_finite", lambda tensor: True)
    yield counting


@pytest.mark.parametrize("method", [Simple(), TaskArithmetic(), Dare(seed=1)], ids=lambda method: str(method.name))
def test_elementwise_methods_wait_once_for_a_parameter(method: MergeMethod, waits: Waits) -> None:
    """For whether the merged value is finite, which is asked before it is used."""
    with waits:
        merged(method, members())
    assert waits.counts == {"read": 2 * len(LAYERS)}


@pytest.mark.parametrize("regularization", ["off_diagonal", "ridge"])
def test_regmean_waits_at_most_three_times_for_a_layer(regularization: str, waits: Waits) -> None:
    """For what decides of its system, for its diagnostics, and for whether it is finite."""
    with waits:
        found = merged(RegMean(regularization=regularization), members(count=3))
    assert waits.counts["read"] == len(found)  # biases included
    assert waits.counts["fetched"] == 2 + len(LAYERS)  # two systems, and how far each layer moved


def test_what_is_found_without_waiting_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = merged(RegMean(), members())
    monkeypatch.setattr(linear_algebra, "waits_for_numbers", lambda device: True)
    for name, part in merged(RegMean(), members()).items():
        assert torch.equal(part.value, expected[name].value)
        assert part.diagnostics == expected[name].diagnostics

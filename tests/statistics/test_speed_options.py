"""What makes collecting faster and must not change what is collected: packing, bfloat16, a stop rule, released sums."""

from __future__ import annotations

import math

import pytest
import torch
from statistics_models import classifier, text_batch
from torch import Tensor, nn

from regmean_lab.statistics import (
    ConvergenceRule,
    GramAccumulator,
    GramStatistics,
    StatisticsError,
    add_gram_,
    all_finite,
    collect_gram,
    doubling_rounds,
    mirror_upper_,
)
from regmean_lab.statistics.convergence import FIRST_COMPARISON, largest_change
from regmean_lab.statistics.products import packed_rows


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(rows: Tensor) -> Tensor:
    return rows.double().T @ rows.double() / len(rows)


# Packing


@pytest.mark.parametrize(("threads", "packed"), [(1, 128), (2, 2**21 // (4 * 700))])
@pytest.mark.parametrize("size", [1, 100, 128, 511, 512, 700, 2000])
def test_however_rows_come_in_batches_they_are_all_counted(
    size: int, threads: int, packed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one thread BLAS updates the sum, and few rows are enough for it."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows = drawn(2000, 700)
    assert packed_rows(rows) == packed
    model = nn.Sequential(nn.Linear(700, 1))
    with GramAccumulator(model) as accumulator, torch.no_grad():
        for part in rows.split(size):
            with accumulator.batch():
                model(part)
            early = accumulator.compute()  # takes what is packed so far along
            assert early.rows == {"0": early.examples}
    statistics = accumulator.compute()
    assert statistics.rows == {"0": 2000}
    torch.testing.assert_close(statistics.matrix("0").double(), exact(rows), rtol=1e-4, atol=1e-5)


def test_rows_that_wait_for_others_are_not_changed_with_their_tensor() -> None:
    """Without padding, rows are the model's own tensor, which a later layer may change in place."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.layer(inputs)
            inputs.zero_()
            return output

    model, rows = InPlace(), drawn(5, 3)
    with GramAccumulator(model) as accumulator, torch.no_grad(), accumulator.batch():
        model(rows.clone())
    torch.testing.assert_close(accumulator.compute().matrix("layer").double(), exact(rows), rtol=1e-5, atol=1e-6)


def test_a_sum_is_mirrored_in_blocks() -> None:
    rows = drawn(50, 600)
    total = mirror_upper_(add_gram_(torch.zeros(600, 600), rows))
    assert torch.equal(total, total.T)
    torch.testing.assert_close(total.double(), rows.double().T @ rows.double(), rtol=1e-4, atol=1e-4)


def test_released_sums_give_the_same_and_end_the_collection() -> None:
    model, batches = classifier("bert"), [text_batch((4, 2)), text_batch((3,), seed=1)]
    accumulator = GramAccumulator(model)
    with accumulator, torch.no_grad():
        for batch in batches:
            with accumulator.batch(mask=batch["attention_mask"]):
                model(**batch)
    kept = accumulator.compute()
    released = accumulator.compute(release=True)
    assert (released.rows, released.shared) == (kept.rows, kept.shared)
    for layer in kept.layers:
        torch.testing.assert_close(released.matrix(layer), kept.matrix(layer), rtol=1e-6, atol=1e-7)
    with pytest.raises(StatisticsError, match="released"):
        accumulator.compute()


# bfloat16


def test_rows_in_bfloat16_are_summed_in_float32() -> None:
    """Each product is rounded to 8 bits, their sum is not: the error stays that of one rounding."""
    rows = drawn(40_000, 16) + 1
    model = nn.Sequential(nn.Linear(16, 1))
    with GramAccumulator(model, rows_dtype=torch.bfloat16) as accumulator, torch.no_grad():
        for part in rows.split(8192):
            with accumulator.batch():
                model(part)
    matrix = accumulator.compute().matrix("0")
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix, matrix.T)
    error = (matrix.double() - exact(rows)).norm() / exact(rows).norm()
    assert 1e-6 < float(error) < 4e-3


def test_bfloat16_of_a_whole_model_is_near_float32() -> None:
    model = classifier("roberta").float()
    batches = [text_batch((6, 5, 3), seed=seed) for seed in range(6)]
    whole = collect_gram(model, batches)
    with torch.autocast("cpu", torch.bfloat16):
        rough = collect_gram(model, batches, rows_dtype=torch.bfloat16)
    assert (rough.rows, rough.shared) == (whole.rows, whole.shared)
    for layer, matrix in whole.matrices.items():
        assert rough.matrix(layer).dtype == torch.float32
        assert float((rough.matrix(layer) - matrix).norm() / matrix.norm()) < 0.03


def test_other_types_of_rows_are_refused() -> None:
    with pytest.raises(StatisticsError, match="float16"):
        GramAccumulator(nn.Sequential(nn.Linear(2, 2)), rows_dtype=torch.float16)


# The stop rule


def stream(count: int, size: int = 16) -> list[dict[str, Tensor]]:
    """Batches of independent rows of mean 0 and variance 1."""
    return [{"input": part} for part in drawn(count, 4).split(size)]


def collected(tolerance: float | None, count: int = 4096) -> GramStatistics:
    return collect_gram(nn.Sequential(nn.Linear(4, 1)), stream(count), tolerance=tolerance)


def test_collection_stops_at_the_first_comparison_within_the_tolerance() -> None:
    rows = drawn(4096, 4)
    tolerance = 0.06
    expected = FIRST_COMPARISON
    while True:
        half, expected = exact(rows[:expected]), 2 * expected
        change = float((exact(rows[:expected]) - half).norm() / exact(rows[:expected]).norm())
        if change <= tolerance:
            break
    assert 2 * FIRST_COMPARISON < expected < 4096
    statistics = collected(tolerance)
    assert statistics.examples == expected
    assert statistics.relative_change == pytest.approx(change, rel=1e-3)
    torch.testing.assert_close(statistics.matrix("0").double(), exact(rows[:expected]), rtol=1e-5, atol=1e-6)


def test_everything_is_used_where_the_tolerance_is_not_reached() -> None:
    strict = collected(1e-9)
    assert strict.examples == 4096
    assert strict.relative_change is not None
    assert strict.relative_change > 1e-9
    assert collected(None).relative_change is None


def test_fewer_examples_than_a_comparison_needs() -> None:
    statistics = collected(0.5, count=40)
    assert (statistics.examples, statistics.relative_change) == (40, None)


def test_the_slowest_layer_decides() -> None:
    still, moving = torch.eye(3), torch.eye(3) * 2
    assert largest_change([still, torch.eye(3)], [still, moving]) == pytest.approx(0.5)
    assert largest_change([still], [still]) == 0


def test_the_change_is_that_of_the_whole_symmetric_matrix() -> None:
    before, after = exact(drawn(9, 5)), exact(drawn(9, 5, seed=1))
    expected = float((after - before).norm() / after.norm())
    assert largest_change([before.triu()], [after.triu()]) == pytest.approx(expected)


def test_a_layer_of_zeros_is_no_change_and_a_layer_more_is() -> None:
    zeros, one = torch.zeros(2, 2), torch.eye(2)
    assert largest_change([zeros, one], [zeros, one]) == 0
    assert largest_change([one], [one, one]) == math.inf


def test_a_layer_that_is_not_finite_is_told_at_the_first_comparison() -> None:
    batches = stream(4096)
    batches[0]["input"][0, 0] = math.nan
    seen = []

    def forward(model: nn.Module, batch: dict[str, Tensor]) -> None:
        seen.append(1)
        model(batch["input"])

    with pytest.raises(StatisticsError, match="'0'"):
        collect_gram(nn.Sequential(nn.Linear(4, 1)), batches, forward=forward, tolerance=1e-9)
    assert len(seen) == 2 * FIRST_COMPARISON // 16


def test_rounds_double_and_cover_every_example_once() -> None:
    assert list(doubling_rounds(300)) == [(0, 64), (64, 128), (128, 256), (256, 300)]
    assert list(doubling_rounds(64)) == [(0, 64)]
    assert list(doubling_rounds(10)) == [(0, 10)]
    assert list(doubling_rounds(0)) == []
    # Each example counted twice, comparisons come after half as many of them.
    assert list(doubling_rounds(150, passes=2)) == [(0, 32), (32, 64), (64, 128), (128, 150)]


def test_comparisons_are_made_when_the_examples_have_doubled() -> None:
    model = nn.Sequential(nn.Linear(4, 1))
    rule, compared = ConvergenceRule(1e-9), []
    with GramAccumulator(model) as accumulator, torch.no_grad():
        for batch in stream(400, size=20):
            with accumulator.batch():
                model(batch["input"])
            before = rule.change
            rule.converged(accumulator)
            if rule.change != before:
                compared.append(accumulator.examples)
    assert compared == [160, 320]  # 80 is the first number of examples from 64 on


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_not_finite_is_found(value: float, dtype: torch.dtype) -> None:
    tensor = drawn(30, 7).to(dtype)
    assert all_finite(tensor)
    assert all_finite(torch.full((9,), torch.finfo(dtype).max, dtype=dtype))  # whose sum is not finite
    tensor[11, 3] = value
    assert not all_finite(tensor)
    assert all_finite(torch.tensor([1, 2]))
    assert all_finite(torch.zeros(0, 3))

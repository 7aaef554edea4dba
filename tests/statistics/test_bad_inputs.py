"""Inputs that statistics and merging must have a defined answer to, from the collection to the merged weight.

Oracles are NumPy in float64: least squares and pseudo-inverses on the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from statistics_models import captured_inputs, classifier, naive_gram, text_batch
from torch import Tensor, nn

from regmean_lab.merging import Layout, LinearLayer, MergeMember, merge_members
from regmean_lab.merging.merge import MergedParameter
from regmean_lab.merging.regmean import RegMean
from regmean_lab.statistics import GramAccumulator, GramStatistics, StatisticsError, collect_fisher, collect_gram

LAYOUT = Layout({"0.weight": LinearLayer("0")})
WIDTH = 6


def gram_of(rows: Tensor, dtype: torch.dtype = torch.float32) -> GramStatistics:
    """Collected from a layer that is fed ``rows`` ``[rows, WIDTH]``."""
    model = nn.Sequential(nn.Linear(rows.shape[1], 2))
    return collect_gram(model.to(rows.dtype), [{"input": rows}], dtype=dtype)


def merged(inputs: list[Tensor], weights: list[Tensor], off_diagonal: float) -> MergedParameter:
    """RegMean of members with these inputs and weights."""
    members = [
        MergeMember(str(number), {"0.weight": weight}, gram_of(rows))
        for number, (rows, weight) in enumerate(zip(inputs, weights, strict=True))
    ]
    (parameter,) = merge_members(RegMean(off_diagonal=off_diagonal), members, LAYOUT)
    return parameter


def by_pseudo_inverse(inputs: list[Tensor], weights: list[Tensor], off_diagonal: float) -> np.ndarray:
    """The mean, and the least change from it that solves the system, scaled to a unit diagonal: float64."""
    mean = np.mean([weight.double().numpy() for weight in weights], axis=0)
    total, right = np.zeros((WIDTH, WIDTH)), np.zeros((WIDTH, len(mean)))
    for rows, weight in zip(inputs, weights, strict=True):
        gram = rows.double().numpy().T @ rows.double().numpy() / len(rows)
        gram = off_diagonal * gram + (1 - off_diagonal) * np.diag(np.diag(gram))
        total += gram
        right += gram @ (weight.double().numpy() - mean).T
    diagonal = np.diag(total)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)[:, None]
    change = scale * (np.linalg.pinv(scale * total * scale.T, rcond=1e-6, hermitian=True) @ (scale * right))
    return np.asarray(mean + change.T)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = [drawn(3, WIDTH, seed=10), drawn(3, WIDTH, seed=11)]


@pytest.mark.parametrize("off_diagonal", [1.0, 0.9])
def test_a_layer_whose_inputs_are_all_zero_keeps_the_mean(off_diagonal: float) -> None:
    zeros = torch.zeros(20, WIDTH)
    statistics = gram_of(zeros)
    assert statistics.rows == {"0": 20}
    assert torch.equal(statistics.matrix("0"), torch.zeros(WIDTH, WIDTH))
    parameter = merged([zeros, zeros], WEIGHTS, off_diagonal)
    torch.testing.assert_close(parameter.value, (WEIGHTS[0] + WEIGHTS[1]) / 2)
    assert parameter.diagnostics is not None
    assert parameter.diagnostics.unseen_features == WIDTH


@pytest.mark.parametrize("off_diagonal", [1.0, 0.9])
def test_a_layer_that_one_member_never_uses_becomes_the_others(off_diagonal: float) -> None:
    parameter = merged([drawn(50, WIDTH), torch.zeros(20, WIDTH)], WEIGHTS, off_diagonal)
    torch.testing.assert_close(parameter.value, WEIGHTS[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("off_diagonal", "tolerance"), [(1.0, 1e-2), (0.9, 1e-5), (0.5, 1e-5)])
def test_fewer_rows_than_columns(off_diagonal: float, tolerance: float) -> None:
    """Rank-deficient matrices: as by a pseudo-inverse, to what float32 statistics tell of open directions."""
    errors = []
    for seed in range(0, 100, 2):  # a single draw may be nearly singular, or lucky
        inputs = [drawn(2, WIDTH, seed=seed), drawn(3, WIDTH, seed=seed + 1)]
        parameter = merged(inputs, WEIGHTS, off_diagonal)
        errors.append(np.abs(parameter.value.double().numpy() - by_pseudo_inverse(inputs, WEIGHTS, off_diagonal)).max())
    assert np.median(errors) < tolerance
    assert parameter.diagnostics is not None
    assert (parameter.diagnostics.jitter > 0) == (off_diagonal == 1)


@pytest.mark.parametrize("off_diagonal", [1.0, 0.9])
def test_a_dead_feature_keeps_the_mean_and_disturbs_nothing(off_diagonal: float) -> None:
    inputs = [drawn(40, WIDTH, seed=3), drawn(40, WIDTH, seed=4)]
    for rows in inputs:
        rows[:, 2] = 0
    value = merged(inputs, WEIGHTS, off_diagonal).value
    torch.testing.assert_close(value[:, 2], (WEIGHTS[0][:, 2] + WEIGHTS[1][:, 2]) / 2)
    expected = by_pseudo_inverse(inputs, WEIGHTS, off_diagonal)
    np.testing.assert_allclose(value.double().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_features_of_very_different_size() -> None:
    """Activations of large models have outlier features a thousand times the others."""
    inputs = [drawn(60, WIDTH, seed=5), drawn(60, WIDTH, seed=6)]
    for rows in inputs:
        rows[:, 1] *= 1e3
    value = merged(inputs, WEIGHTS, 0.9).value
    expected = by_pseudo_inverse(inputs, WEIGHTS, 0.9)
    np.testing.assert_allclose(value.double().numpy(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_an_error_that_names_the_layers(value: float) -> None:
    """NaN spreads: every layer after it is named, and none before it."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    batches = [{"input": drawn(4, 3, seed=seed), "factor": torch.full((4, 1), 1.0)} for seed in range(3)]
    batches[1]["factor"][2] = value

    def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        first, second, third = model.children()
        third(second(first(batch["input"]) * batch["factor"]))

    with pytest.raises(StatisticsError) as caught:
        collect_gram(model, batches, forward=forward)
    assert "'1', '2'" in str(caught.value)
    assert "'0'" not in str(caught.value)


def test_a_labels_gradient_that_is_not_finite_is_an_error_that_names_the_parameter() -> None:
    model = classifier("bert").float()
    with torch.no_grad():
        model.classifier.weight[0, 0] = math.nan
    with pytest.raises(StatisticsError, match=r"classifier\.(weight|bias)|bert\."):
        collect_fisher(model, [text_batch((3, 4))])


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
def test_a_batch_of_one_token(architecture: str) -> None:
    """One sentence of one token: a row for every layer, and matrices of rank one."""
    model = classifier(architecture)
    batch = text_batch((1,))
    statistics = collect_gram(model, [batch], dtype=torch.float64)
    inputs = captured_inputs(model, lambda: model(**batch))
    for layer in statistics.layers:
        rows = list(inputs[layer][0].reshape(-1, inputs[layer][0].shape[-1]))
        assert statistics.rows[statistics.shared[layer]] == len(rows) == 1
        torch.testing.assert_close(statistics.matrix(layer), naive_gram(rows), rtol=1e-10, atol=1e-12)


def test_a_batch_of_padding_alone_adds_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    rows = drawn(2, 4, 3)
    with GramAccumulator(model) as accumulator, torch.no_grad():
        with accumulator.batch(mask=torch.ones(2, 4)):
            model(rows)
        with accumulator.batch(mask=torch.zeros(2, 4)):
            model(rows)
    statistics = accumulator.compute()
    assert statistics.rows == {"0": 8}
    torch.testing.assert_close(statistics.matrix("0"), gram_of(rows.reshape(-1, 3)).matrix("0"))


def test_padding_alone_is_an_error_that_names_the_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with GramAccumulator(model) as accumulator, accumulator.batch(mask=torch.zeros(2, 4)):
        model(drawn(2, 4, 3))
    with pytest.raises(StatisticsError, match="no input rows were seen by '0'"):
        accumulator.compute()


def test_float32_sums_of_many_rows_are_as_exact_as_float32() -> None:
    """Rows with a large mean, in many small batches, against float64."""
    rows = drawn(20_000, 8, seed=7) + 10
    model = nn.Sequential(nn.Linear(8, 2))
    statistics = collect_gram(model, [{"input": part} for part in rows.split(37)])
    exact = rows.double().T @ rows.double() / len(rows)
    error = (statistics.matrix("0").double() - exact).abs().max() / exact.abs().max()
    assert float(error) < 2e-5


@pytest.mark.parametrize("off_diagonal", [0.95, 0.9, 0.1])
def test_members_in_float32_are_merged_as_exactly_as_in_float64(off_diagonal: float) -> None:
    """What is solved in float32, with nearly dependent inputs as real activations are."""
    generator = torch.Generator().manual_seed(0)
    members = []
    for number in range(3):
        rows = torch.randn(400, 5, generator=generator) @ torch.randn(5, 64, generator=generator)
        rows += 3 + 0.05 * torch.randn(400, 64, generator=generator)
        members.append((str(number), torch.randn(16, 64, generator=generator), gram_of(rows)))
    single = [MergeMember(name, {"0.weight": weight}, gram) for name, weight, gram in members]
    double = [MergeMember(name, {"0.weight": weight.double()}, gram) for name, weight, gram in members]
    method = RegMean(off_diagonal=off_diagonal)
    (ours,), (exact,) = (list(merge_members(method, part, LAYOUT)) for part in (single, double))
    assert ours.value.dtype == torch.float32
    difference = (ours.value.double() - exact.value).norm() / exact.value.norm()
    assert float(difference) < 2e-4

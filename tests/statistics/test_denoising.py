"""What noisy counts say of true ones, against Bayes' rule with the true distribution and against loops."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from regmean_lab.statistics.denoising import (
    GROUP_TOKENS,
    GROUPS,
    ROUNDS,
    _possible,
    counts_of_tokens,
    posterior_means,
)
from regmean_lab.statistics.privacy import Noise

NOISES = [Noise(20, 2.7, 1e-6), Noise(20, 2.7), Noise(1, 0.5), Noise(5, 8.0, 1e-5)]


def zipf(size: int, most: int) -> Tensor:
    """Counts as words have them: most of a vocabulary does not occur."""
    return torch.tensor([most // number for number in range(1, size + 1)])


def noisy_of(true: Tensor, noise: Noise, seed: int = 0) -> Tensor:
    return true + noise.draw(len(true), random.Random(seed))


def probability(noise: Noise) -> Callable[[float], float]:
    """Of some noise, but for a constant, from the definitions of the discrete Laplace and Gaussian distributions."""
    scale = float(noise.scale)
    if noise.delta is None:
        return lambda number: math.exp(-abs(number) / scale)
    return lambda number: math.exp(-(number**2) / (2 * scale))


@pytest.mark.parametrize("noise", NOISES)
def test_it_is_bayes_rule_where_the_distribution_is_known(noise: Noise) -> None:
    """Nine counts of ten are 0, the others 200: the estimated distribution has to come to the same."""
    true = torch.tensor([0] * 4500 + [200] * 500)
    noisy = noisy_of(true, noise)
    means, likelihood = posterior_means(noisy, noise), probability(noise)
    for count, mean in zip(noisy[::50].tolist(), means[::50].tolist(), strict=True):
        none, some = 0.9 * likelihood(count), 0.1 * likelihood(count - 200)
        assert mean == pytest.approx(200 * some / (none + some), abs=6)


@pytest.mark.parametrize("noise", NOISES)
def test_each_round_is_expectation_and_maximisation(noise: Noise) -> None:
    """Loops over counts and values, on the same grid."""
    noisy = noisy_of(zipf(60, 90), noise)
    values = _possible(noisy.double().unique(), noise.deviation).tolist()
    assert values[0] == 0
    weights = [0.5, *[0.5 / (len(values) - 1)] * (len(values) - 1)]

    likelihood = probability(noise)
    table = {count: [likelihood(count - value) for value in values] for count in noisy.tolist()}

    def posterior(count: int) -> list[float]:
        joint = [weight * likely for weight, likely in zip(weights, table[count], strict=True)]
        return [one / sum(joint) for one in joint]

    for _ in range(ROUNDS):
        found = [posterior(count) for count in noisy.tolist()]
        weights = [sum(column) / len(found) for column in zip(*found, strict=True)]
    expected = [sum(p * v for p, v in zip(posterior(count), values, strict=True)) for count in noisy.tolist()]
    assert posterior_means(noisy, noise).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("noise", NOISES)
def test_they_are_nearer_to_the_true_counts_than_what_is_above_any_threshold(noise: Noise) -> None:
    true = zipf(20_000, 1500)
    noisy = noisy_of(true, noise)
    means = posterior_means(noisy, noise)

    def error(found: Tensor) -> float:
        return float((found - true).double().square().mean())

    deviation = int((noisy - true).double().std()) + 1
    thresholds = [error(torch.where(noisy >= least, noisy, 0)) for least in range(0, 8 * deviation, deviation)]
    assert error(means) < min(thresholds)
    assert float(means.min()) >= 0


def test_a_larger_noisy_count_is_a_larger_one_and_places_do_not_matter() -> None:
    noise = NOISES[0]
    noisy = noisy_of(zipf(3000, 400), noise)
    means = posterior_means(noisy, noise)
    order = noisy.argsort()
    assert (means[order].diff() >= -1e-9).all()
    assert torch.equal(posterior_means(noisy[order], noise), means[order])


def test_next_to_no_noise_leaves_counts_as_they_are() -> None:
    noise, true = Noise(1, 60.0, 1e-6), zipf(5000, 1000)
    assert torch.equal(noisy_of(true, noise), true)
    assert posterior_means(true, noise).tolist() == pytest.approx(true.tolist(), abs=1e-6)


@pytest.mark.parametrize("counts", [[0], [-30], [7], [-4, -4, -4], [0, 10**6]])
def test_few_counts_and_extreme_ones_have_means(counts: list[int]) -> None:
    for noise in NOISES:
        means = posterior_means(torch.tensor(counts), noise)
        assert means.isfinite().all()
        assert 0 <= float(means.min()) <= float(means.max()) <= max(1, *counts, 0)


def test_a_large_vocabulary_with_much_noise_takes_little_memory() -> None:
    noise = Noise(20, 0.01)
    observed = noisy_of(zipf(5000, 1500), noise).double().unique()
    assert len(observed) > 3000
    values = _possible(observed, noise.deviation)
    assert len(values) < 150
    assert float(values[-1]) >= float(observed[-1]) - noise.deviation


@pytest.mark.parametrize("noise", NOISES)
def test_the_deviation_is_that_of_the_noise(noise: Noise) -> None:
    drawn = noise.draw(4000, random.Random(1)).double()
    assert float(drawn.std()) == pytest.approx(noise.deviation, rel=0.1)


def test_tokens_with_near_numbers_have_a_distribution_of_their_own() -> None:
    noise = NOISES[0]
    size = 2 * GROUP_TOKENS * GROUPS
    noisy = noisy_of(zipf(size, 1500), noise)
    each = size // GROUPS
    expected = [posterior_means(noisy[start : start + each], noise).round() for start in range(0, size, each)]
    found = counts_of_tokens(noisy, noise)
    assert torch.equal(found, torch.cat(expected).long())
    assert not torch.equal(found, posterior_means(noisy, noise).round().long())
    few = noisy[: 2 * GROUP_TOKENS - 1]
    assert torch.equal(counts_of_tokens(few, noise), posterior_means(few, noise).round().long())

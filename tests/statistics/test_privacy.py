"""Differential privacy of counts: distribution of the noise, its size, and what one text changes, by brute force."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, dlaplace, kstest, norm

from regmean_lab.statistics import KINDS, StatisticsError, TokensConfig, Vocabulary
from regmean_lab.statistics.denoising import counts_of_tokens
from regmean_lab.statistics.kinds.tokens import accumulator_of
from regmean_lab.statistics.privacy import (
    Noise,
    concentrated,
    discrete_gaussian,
    discrete_laplace,
    secure_source,
)
from regmean_lab.statistics.token_counter import Privacy, TokenAccumulator

SIZE = 40
VOCABULARY = Vocabulary(tuple(f"w{id_}" for id_ in range(SIZE)), frozenset({0, 1}), frozenset({0, 1}))
DRAWN = 20_000


def jittered(values: list[int], seed: int) -> Any:
    """Whole numbers spread over the interval around each, which makes their distribution continuous."""
    return np.array(values) + np.random.default_rng(seed).uniform(-0.5, 0.5, len(values))


@pytest.mark.parametrize("noise", [Noise(1, 0.1), Noise(32, 0.9), Noise(3, 2.7)])
def test_laplace_noise_has_its_distribution(noise: Noise) -> None:
    scale = noise.scale
    assert float(scale) == pytest.approx(noise.sensitivity / noise.epsilon, rel=1e-6)
    source = random.Random(1)
    drawn = [discrete_laplace(scale, source) for _ in range(DRAWN)]
    theory = dlaplace(1 / float(scale))

    def distribution(x: Any) -> Any:
        below = np.floor(x + 0.5) - 1
        return theory.cdf(below) + (x + 0.5 - (below + 1)) * theory.pmf(below + 1)

    assert kstest(jittered(drawn, 0), distribution).pvalue > 1e-3
    counts = Counter(drawn)
    middle = [x for x in range(-200, 201) if theory.pmf(x) * DRAWN > 10]
    expected = np.array([theory.pmf(x) for x in middle])
    observed = np.array([counts[x] for x in middle])
    assert chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 1e-3


@pytest.mark.parametrize("noise", [Noise(1, 4.0, 1e-3), Noise(32, 0.9, 1e-6), Noise(8, 7.2, 1e-5)])
def test_gaussian_noise_has_its_distribution(noise: Noise) -> None:
    variance, source = noise.scale, random.Random(2)
    drawn = [discrete_gaussian(variance, source) for _ in range(DRAWN)]
    reach = math.ceil(12 * math.sqrt(variance)) + 2
    masses = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * float(variance)))
    masses /= masses.sum()
    until = np.cumsum(masses)

    def distribution(x: Any) -> Any:
        place = np.clip(np.floor(x + 0.5).astype(int) + reach, 0, 2 * reach)
        return until[place] - (1 - (x + 0.5 - np.floor(x + 0.5))) * masses[place]

    assert kstest(jittered(drawn, 1), distribution).pvalue > 1e-3
    assert np.var(drawn) == pytest.approx(float(variance), rel=0.05)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.9, 1e-6), (2.7, 1e-5), (7.2, 1e-6), (0.1, 1e-3)])
def test_gaussian_noise_suffices_by_the_exact_condition_for_gaussians(epsilon: float, delta: float) -> None:
    """Balle and Wang (ICML 2018), theorem 8; the bound from concentrated privacy lies within a fifth of it."""
    deviation = math.sqrt(float(Noise(1, epsilon, delta).scale))

    def exact(sigma: float) -> float:
        first, second = (norm.cdf(sign / (2 * sigma) - epsilon * sigma) for sign in (1, -1))
        return float(first - math.exp(epsilon) * second)

    assert exact(deviation) <= delta
    assert exact(0.8 * deviation) > delta


def test_concentrated_privacy_is_the_bound_of_its_paper() -> None:
    """δ at the found ρ, by a fine grid over α instead of a search."""
    for epsilon, delta in ((1.0, 1e-6), (3.0, 1e-5)):
        rho = concentrated(epsilon, delta)
        alphas = 1 + np.logspace(-4, 2, 200_001)
        logarithm = (alphas - 1) * (alphas * rho - epsilon) + alphas * np.log1p(-1 / alphas) - np.log(alphas - 1)
        assert np.exp(logarithm.min()) == pytest.approx(delta, rel=1e-3)


@pytest.mark.parametrize("share", [1 / 30_000, 0.01])
@pytest.mark.parametrize("delta", [None, 1e-6])
def test_at_the_threshold_as_many_absent_tokens_are_told_as_asked_for(delta: float | None, share: float) -> None:
    noise = Noise(32, 0.9, delta)
    threshold, scale = noise.threshold(share), float(noise.scale)
    numbers = np.arange(threshold, threshold + 2000)
    every = np.arange(-3000, 3001)
    exponent = np.abs if delta is None else np.square
    width = scale if delta is None else 2 * scale
    tail = np.exp(-exponent(numbers) / width).sum() / np.exp(-exponent(every) / width).sum()
    assert 0.7 * share < tail < 1.1 * share


def table_of(rows: list[list[int]], per_text: int) -> tuple[Any, Any]:
    """Counts before noise: texts that have each token, and lengths."""
    accumulator = TokenAccumulator(VOCABULARY, 5, privacy=Privacy(1.0, None, per_text))
    for row in rows:
        accumulator.add(torch.tensor([row]))
    return accumulator.texts[0], accumulator.histograms["lengths"]


@pytest.mark.parametrize("per_text", [1, 3, 8])
def test_one_text_changes_no_more_than_the_noise_is_made_for(per_text: int) -> None:
    draw = random.Random(0)
    rows = [draw.choices(range(SIZE), k=draw.randint(1, 30)) for _ in range(40)] + [[7] * 25, [0, 1], list(range(40))]
    tokens, lengths = table_of(rows, per_text)
    changes = []
    for left_out in range(len(rows)):
        fewer, shorter = table_of(rows[:left_out] + rows[left_out + 1 :], per_text)
        difference, other = (tokens - fewer).abs(), (lengths - shorter).abs()
        noise = Privacy(1.0, None, per_text)
        assert int(difference.sum()) <= noise.of_tokens.sensitivity == per_text
        assert int(difference.max()) <= 1
        assert float(difference.double().norm()) <= math.sqrt(per_text)
        assert int(other.sum()) <= noise.of_lengths.sensitivity == 1
        changes.append(int(difference.sum()))
    assert max(changes) == per_text  # the bound is reached


def test_the_two_parts_spend_no_more_than_was_asked_for() -> None:
    for delta in (None, 1e-6):
        privacy = Privacy(3.0, delta)
        assert privacy.of_tokens.epsilon + privacy.of_lengths.epsilon == pytest.approx(3.0)
        assert (privacy.of_tokens.delta, privacy.of_lengths.delta) == (delta, None)


def corpus(count: int) -> list[list[int]]:
    draw = random.Random(3)
    return [[2, 3, *draw.choices(range(4, 10), k=4)] for _ in range(count)]


def released(source: Any = None, count: int = 400, **settings: Any) -> Any:
    accumulator = accumulator_of(VOCABULARY, TokensConfig(epsilon=4.0, tokens_per_text=6, **settings))
    for row in corpus(count):
        accumulator.add(torch.tensor([row]))
    return accumulator.compute() if source is None else accumulator.compute(source=source)


@pytest.mark.parametrize("delta", [None, 1e-5])
def test_what_is_released_is_what_noisy_numbers_of_texts_say(delta: float | None) -> None:
    found = released(lambda: random.Random(7), delta=delta)
    noise = Privacy(4.0, delta, 6).of_tokens
    exact, lengths = table_of(corpus(400), 6)
    noisy = exact[2:] + noise.draw(SIZE - 2, random.Random(7))
    expected = {f"w{id_ + 2}": n for id_, n in enumerate(counts_of_tokens(noisy, noise).tolist()) if n}
    assert dict(zip(found.counts.tokens, found.counts.counts[0].tolist(), strict=True)) == expected
    assert {"w2", "w3"} <= set(expected)
    assert found.counts.lengths[:, 2].sum() == found.examples
    assert found.batches == 0
    assert int(lengths.sum()) == 400
    assert found.privacy["tokens"]["told"] == "posterior means, rounded"
    assert (found.privacy["epsilon"], found.privacy["delta"]) == (4.0, delta or 0.0)


def test_noise_is_another_one_each_time_whatever_the_seeds() -> None:
    drawn = []
    for _ in range(2):
        random.seed(0)
        torch.manual_seed(0)
        np.random.seed(0)
        drawn.append(released().counts.counts.tolist())
    assert drawn[0] != drawn[1]
    assert isinstance(secure_source(), random.SystemRandom)


def test_too_few_texts_for_the_noise_are_refused() -> None:
    with pytest.raises(StatisticsError, match="more texts than the noise hides: count more texts, or with a larger"):
        released(lambda: random.Random(0), count=2)


def test_a_card_says_what_is_told_of_noisy_counts_now_and_of_a_file_with_a_threshold() -> None:
    privacy = released(lambda: random.Random(7), delta=1e-5).privacy
    now = KINDS["tokens"].told({"settings": {}, "privacy": privacy})
    assert "(4, 1e-05)-differentially private" in now
    assert "Of each text 6 distinct tokens count" in now
    assert "told is what the noisy counts together make likely of each, and lengths of fewer than" in now
    earlier = {**privacy, "tokens": {**privacy["tokens"], "threshold": 18}}
    assert "noisy counts below 18 are left out" in KINDS["tokens"].told({"settings": {}, "privacy": earlier})

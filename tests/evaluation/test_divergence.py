"""Divergence from members, agreement, temperature and gap closed, against scipy and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, softmax
from scipy.stats import entropy
from torch import Tensor

from regmean_lab.metrics.divergence import Pair, agreement, best_temperature, divergence, gap_closed, mean_distribution
from regmean_lab.suites.base import IGNORED, Task

SINGLE = Task("single_label", ("a", "b", "c"), "accuracy")
MULTI = Task("multi_label", ("a", "b", "c"), "macro_f1")
TOKENS = Task("token_labels", ("O", "B-X", "I-X"), "entity_f1")
NUMBERS = Task("regression", ("score",), "pearson")


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_of_classes_it_is_scipys_entropy() -> None:
    member, other = logits(7, 3), logits(7, 3, seed=1)
    pair = Pair(SINGLE, member, other, torch.zeros(7, dtype=torch.long))
    for temperature in (1.0, 0.5, 3.0):
        p, q = softmax(member.double().numpy(), 1), softmax(other.double().numpy() / temperature, 1)
        assert divergence(pair, temperature) == pytest.approx(np.mean(entropy(p, q, axis=1)), rel=1e-10)
    assert divergence(Pair(SINGLE, member, member, pair.labels)) == 0
    same = (member.argmax(1) == other.argmax(1)).double().mean()
    assert agreement(pair) == pytest.approx(100 * float(same))
    # A constant on an example's logits changes no distribution.
    assert divergence(Pair(SINGLE, member + 5, other - 2, pair.labels)) == pytest.approx(divergence(pair), rel=1e-6)


def test_of_answers_it_is_that_of_two_classes() -> None:
    task = Task("answers", ("joy", "fear"), "macro_f1")
    member, other = logits(5, 2), logits(5, 2, seed=1)
    pair = Pair(task, member, other, torch.zeros(5, 2, dtype=torch.long))
    p, q = softmax(member.double().numpy(), 1), softmax(other.double().numpy(), 1)
    assert divergence(pair) == pytest.approx(np.mean(entropy(p, q, axis=1)), rel=1e-10)


def test_of_several_labels_it_is_the_sum_over_those_that_the_member_knows() -> None:
    member, other = logits(6, 3), logits(6, 3, seed=1)
    labels = torch.zeros(6, 3, dtype=torch.long)
    p, q = expit(member.double().numpy()), expit(other.double().numpy())
    each = entropy(np.stack([p, 1 - p]), np.stack([q, 1 - q]), axis=0)
    assert divergence(Pair(MULTI, member, other, labels)) == pytest.approx(each.sum(1).mean(), rel=1e-9)
    some = Pair(MULTI, member, other, labels, known=(True, False, True))
    assert divergence(some) == pytest.approx(each[:, [0, 2]].sum(1).mean(), rel=1e-9)
    assert agreement(some) == pytest.approx(100 * np.mean((p > 0.5)[:, [0, 2]] == (q > 0.5)[:, [0, 2]]))


def test_of_tags_it_is_of_the_words_that_have_one() -> None:
    member, other = logits(2, 4, 3), logits(2, 4, 3, seed=1)
    labels = torch.tensor([[0, IGNORED, 2, IGNORED], [1, 1, IGNORED, IGNORED]])
    counted = [(0, 0), (0, 2), (1, 0), (1, 1)]
    expected = [
        entropy(softmax(member[place].double().numpy()), softmax(other[place].double().numpy())) for place in counted
    ]
    pair = Pair(TOKENS, member, other, labels)
    assert divergence(pair) == pytest.approx(np.mean(expected), rel=1e-9)
    same = [int(member[place].argmax()) == int(other[place].argmax()) for place in counted]
    assert agreement(pair) == pytest.approx(100 * np.mean(same))


def test_of_numbers_it_is_the_mean_squared_difference() -> None:
    pair = Pair(NUMBERS, torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]]), torch.tensor([0.0, 0.0]))
    assert divergence(pair) == divergence(pair, 5.0) == pytest.approx((4 + 0.25) / 2)
    assert agreement(pair) is None and best_temperature([pair]) == 1


def test_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="texts have no divergence"):
        divergence(Pair(Task("text", ("causal",), "exact_match"), logits(2, 3), logits(2, 3), logits(2)))


@pytest.mark.parametrize("task", [SINGLE, MULTI])
def test_the_best_temperature_is_that_of_another_optimiser(task: Task) -> None:
    labels = torch.zeros(40, dtype=torch.long) if task is SINGLE else torch.zeros(40, 3, dtype=torch.long)
    pairs = [
        Pair(task, logits(40, 3, seed=s), logits(40, 3, seed=s) + logits(40, 3, seed=s + 9), labels) for s in (1, 2)
    ]

    def mean(values: np.ndarray) -> float:
        return sum(divergence(pair, float(np.exp(values[0]))) for pair in pairs) / 2

    found = minimize(mean, [0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    assert best_temperature(pairs) == pytest.approx(float(np.exp(found.x[0])), rel=1e-3)
    # Logits that are k times too large want the temperature k.
    member = logits(50, 3, seed=5)
    scaled = Pair(task, member, 2.5 * member, torch.zeros(50, *([3] if task is MULTI else []), dtype=torch.long))
    assert best_temperature([scaled]) == pytest.approx(2.5, rel=1e-3)


def test_regressions_among_members_do_not_decide_the_temperature() -> None:
    numbers = Pair(NUMBERS, torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]]), torch.tensor([0.0, 0.0]))
    member = logits(50, 3, seed=5)
    scaled = Pair(SINGLE, member, 2.5 * member, torch.zeros(50, dtype=torch.long))
    found = [best_temperature(pairs) for pairs in ([numbers, scaled], [scaled, numbers], [scaled])]
    assert found[0] == found[1] == found[2] == pytest.approx(2.5, rel=1e-3)
    assert divergence(scaled, found[0]) < 1e-6 < divergence(scaled)


def test_the_gap_closed_of_unlike_members() -> None:
    """The unit of a regression decides nothing: ten times the scale is a hundred times the squared difference."""
    for scale in (1.0, 100.0, 1e-4):
        both = [0.2, 0.3 * scale], [0.4, 0.4 * scale]
        assert gap_closed(*both, [SINGLE, NUMBERS]) == pytest.approx(100 * (0.5 + 0.25) / 2)
        assert gap_closed(both[0][::-1], both[1][::-1], [NUMBERS, SINGLE]) == pytest.approx(37.5)
    assert gap_closed([0.1, 0.1], [0.4, 0.0], [SINGLE, NUMBERS]) is None
    for alike in ([SINGLE, SINGLE], [SINGLE, MULTI], [TOKENS, SINGLE], [NUMBERS, NUMBERS]):
        assert gap_closed([0.1, 0.2], [0.3, 0.5], alike) == gap_closed([0.1, 0.2], [0.3, 0.5]) == pytest.approx(62.5)


def test_a_gap_within_rounding_is_none() -> None:
    assert gap_closed([2.3e-13], [2.9e-13]) is None
    assert gap_closed([2.3e-9], [4.6e-9]) == pytest.approx(50)
    assert gap_closed([0.1, 1e-14], [0.2, 2e-14], [SINGLE, NUMBERS]) is None


def test_the_gap_closed() -> None:
    assert gap_closed([0.2, 0.2], [0.3, 0.5]) == pytest.approx(50)
    assert gap_closed([0.3, 0.5], [0.3, 0.5]) == 0
    assert gap_closed([0.0, 0.0], [0.3, 0.5]) == 100
    assert gap_closed([0.6, 1.0], [0.3, 0.5]) == pytest.approx(-100)
    assert gap_closed([0.0], [0.0]) is None


def test_the_members_mean_is_of_their_distributions() -> None:
    one, other = logits(4, 3), logits(4, 3, seed=1)
    mean = mean_distribution(SINGLE, [one, other]).softmax(1)
    torch.testing.assert_close(mean, (one.double().softmax(1) + other.double().softmax(1)) / 2)
    several = mean_distribution(MULTI, [one, other]).sigmoid()
    torch.testing.assert_close(several, (one.double().sigmoid() + other.double().sigmoid()) / 2)
    # The first label is the second member's alone; the third is nobody's.
    known = mean_distribution(MULTI, [one, other], [(False, True, False), (True, True, False)]).sigmoid()
    torch.testing.assert_close(known[:, 0], other[:, 0].double().sigmoid())
    torch.testing.assert_close(known[:, 1:], several[:, 1:])
    torch.testing.assert_close(mean_distribution(NUMBERS, [one, other]), (one.double() + other.double()) / 2)

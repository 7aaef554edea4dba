from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmean_lab.suites.batch_sampling import BatchShares, LengthGroupedBatchSampler, TokenBudgetBatchSampler
from regmean_lab.suites.sampling import seeded_permutation, seeded_subset

_generator = random.Random(3)
LENGTHS = [1 + int(_generator.lognormvariate(3, 0.7)) for _ in range(503)]


@given(st.integers(0, 200), st.integers(0, 5))
def test_permutation_holds_every_number_once_and_is_repeatable(count: int, seed: int) -> None:
    order = seeded_permutation(count, seed)
    assert sorted(order) == list(range(count))
    assert order == seeded_permutation(count, seed)


def test_permutation_depends_on_the_seed() -> None:
    assert len({tuple(seeded_permutation(50, seed)) for seed in range(10)}) == 10


def test_permutation_puts_each_item_anywhere() -> None:
    firsts = [seeded_permutation(4, seed)[0] for seed in range(400)]
    assert all(60 < firsts.count(item) < 140 for item in range(4))


@given(st.integers(0, 60), st.integers(0, 80), st.integers(0, 80), st.integers(0, 3))
def test_smaller_subset_is_part_of_larger(count: int, one: int, two: int, seed: int) -> None:
    small, large = (seeded_subset(count, limit, seed) for limit in sorted((one, two)))
    assert set(small) <= set(large)
    assert len(large) == min(count, max(one, two))
    assert large == sorted(large)


def test_no_limit_keeps_everything_in_order() -> None:
    assert seeded_subset(5, None, 1) == [0, 1, 2, 3, 4]


@given(
    st.lists(st.integers(0, 40), max_size=60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), st.booleans()
)
def test_every_example_once_in_full_batches(
    lengths: list[int], batch_size: int, seed: int, epoch: int, shuffle: bool
) -> None:
    sampler = LengthGroupedBatchSampler(lengths, batch_size, seed, shuffle)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler)
    rest = len(lengths) % batch_size
    expected = [batch_size] * (len(lengths) // batch_size) + ([rest] if rest else [])
    assert sorted(map(len, batches), reverse=True) == expected


def test_same_seed_and_epoch_repeat_and_others_differ() -> None:
    def batches(seed: int, epoch: int) -> tuple[tuple[int, ...], ...]:
        sampler = LengthGroupedBatchSampler(LENGTHS, 8, seed)
        sampler.set_epoch(epoch)
        return tuple(map(tuple, sampler))

    assert batches(1, 2) == batches(1, 2)
    assert len({batches(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16


def test_examples_meet_others_in_the_next_epoch() -> None:
    sampler = LengthGroupedBatchSampler(LENGTHS, 8)
    first = {frozenset(batch) for batch in sampler}
    sampler.set_epoch(1)
    second = {frozenset(batch) for batch in sampler}
    assert len(first & second) < 0.05 * len(first)


def padded_share(batches: list[list[int]]) -> float:
    padded = sum(max(LENGTHS[index] for index in batch) * len(batch) for batch in batches)
    return padded / sum(LENGTHS) - 1


def test_grouping_saves_most_padding() -> None:
    order = random.Random(0).sample(range(len(LENGTHS)), len(LENGTHS))
    naive = padded_share([order[start : start + 16] for start in range(0, len(order), 16)])
    assert naive > 1
    assert padded_share(list(LengthGroupedBatchSampler(LENGTHS, 16))) < 0.3
    assert padded_share(list(LengthGroupedBatchSampler(LENGTHS, 16, shuffle=False))) < 0.15


def test_batches_come_in_random_order_of_length() -> None:
    means = [sum(LENGTHS[index] for index in batch) / len(batch) for batch in LengthGroupedBatchSampler(LENGTHS, 16)]
    rises = sum(one < two for one, two in itertools.pairwise(means))
    assert 0.25 < rises / (len(means) - 1) < 0.75


def test_incomplete_batch_is_not_always_the_longest_nor_the_last() -> None:
    sampler = LengthGroupedBatchSampler(LENGTHS, 16)
    places, longest = set(), 0
    for epoch in range(30):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        short = next(batch for batch in batches if len(batch) < 16)
        places.add(batches.index(short))
        longest += max(LENGTHS[index] for index in short) == max(LENGTHS)
    assert len(places) > 5
    assert longest < 10


def test_sorted_order_is_longest_first_and_recoverable() -> None:
    sampler = LengthGroupedBatchSampler(LENGTHS, 16, shuffle=False)
    seen = [LENGTHS[index] for batch in sampler for index in batch]
    assert seen == sorted(LENGTHS, reverse=True)
    restored = [0] * len(LENGTHS)
    for index, value in zip(sampler.order, seen, strict=True):
        restored[index] = value
    assert restored == LENGTHS


def test_sorted_order_does_not_depend_on_the_epoch() -> None:
    sampler = LengthGroupedBatchSampler(LENGTHS, 16, shuffle=False)
    before = sampler.order
    sampler.set_epoch(7)
    assert sampler.order == before


def test_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        LengthGroupedBatchSampler([1], 0)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_shares_of_batches_hold_every_example_once(processes: int) -> None:
    lengths = list(range(1, 23))
    whole = LengthGroupedBatchSampler(lengths, 5, seed=3)
    shares = [BatchShares(LengthGroupedBatchSampler(lengths, 5, seed=3), rank, processes) for rank in range(processes)]
    for epoch in range(2):
        whole.set_epoch(epoch)
        for share in shares:
            share.sampler.set_epoch(epoch)  # as Lightning does
        assert {len(share) for share in shares} == {len(whole)}
        for batch, *parts in zip(whole, *shares, strict=True):
            assert all(parts)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            if len(batch) >= processes:
                assert sorted(index for part in parts for index in part) == sorted(batch)
            else:  # what is left over goes to several
                assert {index for part in parts for index in part} == set(batch)


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 100))
def test_batches_of_tokens_keep_to_their_budget(lengths: list[int], budget: int) -> None:
    batches = list(TokenBudgetBatchSampler(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    ordered = [lengths[index] for batch in batches for index in batch]
    assert ordered == sorted(lengths, reverse=True)
    for batch, following in itertools.zip_longest(batches, batches[1:]):
        padded = lengths[batch[0]] * len(batch)
        assert padded <= budget or len(batch) == 1
        if following is not None:  # it was full
            assert padded + lengths[batch[0]] > budget


def test_a_budget_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        TokenBudgetBatchSampler([1], 0)

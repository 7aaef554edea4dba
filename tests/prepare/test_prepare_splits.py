from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmean_lab.prepare.splits import dev_share, random_splits


def test_shares() -> None:
    splits = random_splits([f"text {number}" for number in range(1000)], 3)
    assert Counter(splits) == {"train": 700, "dev": 100, "test": 200}


@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=40), st.integers(0, 3))
def test_equal_texts_share_a_split_and_none_is_empty(texts: list[str], seed: int) -> None:
    if len(set(texts)) < 3:
        with pytest.raises(ValueError, match="different texts cannot be divided"):
            random_splits(texts, seed)
        return
    splits = random_splits(texts, seed)
    assert len(set(zip(texts, splits, strict=True))) == len(set(texts))
    assert set(splits) == {"train", "dev", "test"}


def test_seeds_differ_and_repeat() -> None:
    texts = [str(number) for number in range(50)]
    assert random_splits(texts, 1) == random_splits(texts, 1) != random_splits(texts, 2)
    assert dev_share(texts, 1) == dev_share(texts, 1) != dev_share(texts, 2)


def test_adding_copies_changes_no_split() -> None:
    texts = [str(number) for number in range(30)]
    assert random_splits([*texts, *texts], 0) == random_splits(texts, 0) * 2


def test_dev_share() -> None:
    assert Counter(dev_share([f"text {number}" for number in range(200)], 0)) == {"train": 180, "dev": 20}
    assert sorted(dev_share(["a", "b"], 0)) == ["dev", "train"]
    with pytest.raises(ValueError, match="1 different training texts cannot be divided"):
        dev_share(["a", "a"], 0)

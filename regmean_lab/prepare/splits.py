"""Random splits that depend on the data and a seed only, with equal texts in one split."""

from __future__ import annotations

from collections.abc import Sequence

from regmean_lab.suites.base import Split
from regmean_lab.suites.sampling import seeded_permutation

TEST_SHARE, DEV_SHARE = 0.2, 0.1
"""Shares of the different texts; the rest is for training."""

SHARES_TEXT = "70 % train, 10 % dev, 20 % test"


def random_splits(texts: Sequence[str], seed: int) -> list[Split]:
    """The split of each text: 20 % of the different texts are for test, 10 % for dev, at least one for each.

    Raises:
        ValueError: if there are fewer than three different texts.
    """
    different = list(dict.fromkeys(texts))
    if len(different) < 3:
        raise ValueError(f"{len(different)} different texts cannot be divided into train, dev and test")
    tests = max(1, round(TEST_SHARE * len(different)))
    devs = max(1, round(DEV_SHARE * len(different)))
    split_of: dict[str, Split] = {}
    for place, index in enumerate(seeded_permutation(len(different), seed)):
        split_of[different[index]] = "test" if place < tests else "dev" if place < tests + devs else "train"
    return [split_of[text] for text in texts]


def dev_share(texts: Sequence[str], seed: int) -> list[Split]:
    """The split, train or dev, of each training text: 10 % of the different texts, at least one, are for dev.

    Raises:
        ValueError: if there are fewer than two different texts.
    """
    different = list(dict.fromkeys(texts))
    if len(different) < 2:
        raise ValueError(f"{len(different)} different training texts cannot be divided into train and dev")
    order = seeded_permutation(len(different), seed)
    devs = {different[index] for index in order[: max(1, round(DEV_SHARE * len(different)))]}
    return ["dev" if text in devs else "train" for text in texts]

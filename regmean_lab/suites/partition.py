"""Dividing the training examples of one corpus in two: alike, or with unlike labels (non-IID)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from regmean_lab.suites.base import Example
from regmean_lab.suites.sampling import seeded_permutation

PARTITIONS = ("partition_0", "partition_1")
KINDS = ("non_iid", "iid")


def divide(classes: Sequence[int], majority_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide examples in two: ``majority_share`` of one class, chosen at random, and of the others the rest of 1.

    Args:
        classes: class of each example.
        majority_share: share of the chosen class that the first part gets, from 0 to 1.
        seed: determines the choice of the class and of the examples.

    Returns:
        Indices of the two parts, each in ascending order. Shares are rounded to whole examples, class by class.
    """
    present = sorted(set(classes))
    chosen = present[int(random.Random(f"majority {seed}").random() * len(present))]
    first: set[int] = set()
    for label in present:
        indices = [index for index, own in enumerate(classes) if own == label]
        share = majority_share if label == chosen else 1 - majority_share
        order = seeded_permutation(len(indices), f"class {label} seed {seed}")
        first.update(indices[place] for place in order[: round(share * len(indices))])
    return sorted(first), [index for index in range(len(classes)) if index not in first]


def halve(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Divide ``count`` examples into random halves, the first with the odd one; indices in ascending order."""
    order = seeded_permutation(count, f"halves {seed}")
    middle = (count + 1) // 2
    return sorted(order[:middle]), sorted(order[middle:])


def classes_of(examples: Sequence[Example], regression: bool) -> list[int]:
    """Label of each example; of a regression 0 or 1, for the lower or upper half of the range of their labels."""
    values = [example.label for example in examples if not isinstance(example.label, tuple)]
    if not regression:
        return [int(value) for value in values]
    middle = (min(values) + max(values)) / 2
    return [int(value > middle) for value in values]


def parts_of(
    examples: Sequence[Example], kind: str, majority_share: float, seed: int, *, regression: bool
) -> tuple[list[Example], list[Example]]:
    """The two parts of some examples, each in their order.

    Args:
        examples: what is divided.
        kind: one of ``KINDS``.
        majority_share: with ``non_iid``, see :func:`divide`.
        seed: determines the parts.
        regression: whether labels are numbers on a scale.
    """
    if kind == "iid":
        first, second = halve(len(examples), seed)
    else:
        first, second = divide(classes_of(examples, regression), majority_share, seed)
    return [examples[index] for index in first], [examples[index] for index in second]


def partition_problems(kind: str, examples: int | None, majority_share: float) -> list[str]:
    """What is wrong with the settings ``partition``, ``examples`` and ``majority_share``."""
    found = []
    if kind not in KINDS:
        found.append(f"partition: expected one of {', '.join(KINDS)}, got {kind!r}")
    if examples is not None and examples < 2:
        found.append(f"examples: expected at least 2 or null, got {examples}")
    if not 0 <= majority_share <= 1:
        found.append(f"majority_share: expected a share from 0 to 1, got {majority_share}")
    return found

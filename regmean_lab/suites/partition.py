"""Dividing the training examples of one corpus in two: alike, or with unlike labels (non-IID)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regmean_lab.suites.base import Example
from regmean_lab.suites.sampling import seeded_permutation, seeded_subset

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


@dataclass
class PartitionSettings:
    """Settings of a suite that divides the training examples of one corpus in two.

    Attributes:
        partition: ``non_iid`` (one label mostly in the first part, the others mostly in the second) or ``iid`` (random
            halves).
        examples: how many training examples are drawn and divided (None: all).
        majority_share: with ``non_iid``, the share of one label's examples that the first part gets; of all other
            labels it gets the rest of 1.
        partition_seed: determines which examples are drawn, which label it is, and the parts.
    """

    partition: str = "non_iid"
    examples: int | None = 2000
    majority_share: float = 0.8
    partition_seed: int = 1


def partition_problems(settings: PartitionSettings) -> list[str]:
    """What is wrong with the settings."""
    found = []
    if settings.partition not in KINDS:
        found.append(f"partition: expected one of {', '.join(KINDS)}, got {settings.partition!r}")
    if settings.examples is not None and settings.examples < 2:
        found.append(f"examples: expected at least 2 or null, got {settings.examples}")
    if not 0 <= settings.majority_share <= 1:
        found.append(f"majority_share: expected a share from 0 to 1, got {settings.majority_share}")
    return found


def partition_content(settings: PartitionSettings) -> dict[str, Any]:
    """What of the settings determines the parts: for a fingerprint."""
    return {
        "partition": settings.partition,
        "examples": settings.examples,
        "majority_share": settings.majority_share if settings.partition == "non_iid" else None,
        "partition_seed": settings.partition_seed,
    }


def drawn_parts(
    examples: Sequence[Example], settings: PartitionSettings, *, regression: bool
) -> dict[str, list[Example]]:
    """Draw ``settings.examples`` of some training examples and divide them; the parts by name, each in order."""
    chosen = seeded_subset(len(examples), settings.examples, settings.partition_seed)
    drawn = [examples[index] for index in chosen]
    parts = parts_of(drawn, settings.partition, settings.majority_share, settings.partition_seed, regression=regression)
    return dict(zip(PARTITIONS, parts, strict=True))

"""Reproducible choice of examples.

All random choices here come from :meth:`random.Random.random`, whose sequence for a given seed Python guarantees to be
the same in every version; so subsets, splits and batches can be reproduced anywhere.
"""

from __future__ import annotations

import random


def seeded_permutation(count: int, seed: int | str) -> list[int]:
    """The numbers 0 to ``count - 1`` in an order that depends on ``count`` and ``seed`` only."""
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def seeded_subset(count: int, limit: int | None, seed: int | str) -> list[int]:
    """Indices of the first ``limit`` items of a seeded permutation, in ascending order (all, if ``limit`` is None).

    With the same seed, a smaller subset is part of a larger one.
    """
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(seeded_permutation(count, seed)[:limit])

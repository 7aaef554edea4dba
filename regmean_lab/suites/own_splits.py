"""Splits of user-supplied data: drawn where they are not given, and checked for overlap."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from regmean_lab.suites.base import Split
from regmean_lab.suites.sampling import seeded_permutation

IDENTIFIERS = ("id", "idx", "guid", "uid", "doc_id", "example_id")
"""Columns whose equal values mean the same example."""


def drawn_splits(
    count: int, shares: Mapping[Split, float], seed: int, groups: Sequence[Hashable] | None = None
) -> dict[Split, list[int]]:
    """Divide rows into training rows and drawn splits.

    Args:
        count: number of rows.
        shares: for each split that is drawn, its share of the rows, from 0 to 1; at least one row or group.
        seed: determines which rows.
        groups: the group of each row; all rows of a group come into one split. Shares are of rows, and a split gets
            groups until it has its share.

    Returns:
        Indices of each split in ascending order, ``train`` among them: the rest.

    Raises:
        ValueError: if nothing is left for training.
    """
    of_row = list(range(count)) if groups is None else list(groups)
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(of_row):
        members.setdefault(group, []).append(row)
    names = list(members)
    order = [names[place] for place in seeded_permutation(len(names), f"splits {seed}")]
    found: dict[Split, list[int]] = {}
    for split, share in shares.items():
        wanted, rows = max(1, round(share * count)), list[int]()
        while order and len(rows) < wanted:
            rows += members[order.pop()]
        found[split] = sorted(rows)
    found["train"] = sorted(row for group in order for row in members[group])
    if not all(found.values()):
        what = "rows" if groups is None else "groups"
        raise ValueError(f"{len(names)} {what} are too few to be divided into {', '.join(sorted(found))}")
    return found


def repeated(splits: Mapping[Split, Sequence[Mapping[str, Any]]], columns: Sequence[str]) -> dict[tuple[str, str], int]:
    """For each pair of splits, how many rows of the second have values of some columns that a row of the first has.

    Args:
        splits: rows of each split.
        columns: the columns that are compared, all together.

    Returns:
        The numbers that are not 0, by the names of the splits.
    """
    keys = {split: [repr([row.get(name) for name in columns]) for row in rows] for split, rows in splits.items()}
    names = list(keys)
    found: dict[tuple[str, str], int] = {}
    for place, first in enumerate(names):
        there = set(keys[first])
        for second in names[place + 1 :]:
            if number := sum(key in there for key in keys[second]):
                found[first, second] = number
    return found

"""Merging only some layers: which parameters stay each member's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from regmean_lab.merging.depth import block_of, last_blocks


def covered(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern (``*``, ``?``; case-sensitive) matches a parameter's name or that of a module around it."""
    parts = name.split(".")
    around = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatchcase(part, pattern) for pattern in patterns for part in around)


def top_blocks(names: Iterable[str], count: int) -> set[str]:
    """Parameters of the last ``count`` blocks of every stack of numbered blocks (``encoder.layer.11.…``)."""
    found = {name: block for name in names if (block := block_of(name)) is not None}
    last = last_blocks(found)
    return {name for name, (stack, number) in found.items() if number > last[stack] - count}

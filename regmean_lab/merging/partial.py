"""Merging only some layers: which parameters stay each member's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

_BLOCK = re.compile(r"^(?P<stack>.*?\.)(?P<number>\d+)\.")


def covered(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern (``*``, ``?``; case-sensitive) matches a parameter's name or that of a module around it."""
    parts = name.split(".")
    around = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatchcase(part, pattern) for pattern in patterns for part in around)


def top_blocks(names: Iterable[str], count: int) -> set[str]:
    """Parameters of the last ``count`` blocks of every stack of numbered blocks (``encoder.layer.11.…``)."""
    found = [(name, match["stack"], int(match["number"])) for name in names if (match := _BLOCK.match(name))]
    last: dict[str, int] = {}
    for _, stack, number in found:
        last[stack] = max(last.get(stack, 0), number)
    return {name for name, stack, number in found if number > last[stack] - count}

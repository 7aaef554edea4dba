"""How deep a parameter lies in a model, and values that change with the depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_BLOCK = re.compile(r"^(?P<stack>.*?\.)(?P<number>\d+)\.")


def block_of(name: str) -> tuple[str, int] | None:
    """The stack and number of the block that a parameter lies in (``encoder.layer.11.…``); None outside of blocks."""
    match = _BLOCK.match(name)
    return None if match is None else (match["stack"], int(match["number"]))


def last_blocks(names: Iterable[str]) -> dict[str, int]:
    """The number of the last block of every stack."""
    last: dict[str, int] = {}
    for stack, number in filter(None, map(block_of, names)):
        last[stack] = max(last.get(stack, 0), number)
    return last


def depths(names: Iterable[str]) -> dict[str, float]:
    """How deep each tensor lies: 0 in the first numbered block of its stack and 1 in the last, 0 outside of blocks.

    The only block of a stack of one has the depth 1.
    """
    blocks = {name: block_of(name) for name in names}
    last = last_blocks(blocks)
    return {
        name: 0.0 if block is None else (block[1] / last[block[0]] if last[block[0]] else 1.0)
        for name, block in blocks.items()
    }


def between(anchors: Sequence[float], depth: float) -> float:
    """The value at a depth from 0 to 1 of anchors that are spread evenly over it, linear between two of them."""
    lower, share = place_of(len(anchors), depth)
    one = float(anchors[lower])
    return one if share == 0 else (1 - share) * one + share * float(anchors[lower + 1])


def place_of(anchors: int, depth: float) -> tuple[int, float]:
    """The number of the last anchor that is not deeper than ``depth``, and how far it is from there to the next one."""
    place = depth * (anchors - 1)
    lower = min(int(place), anchors - 1)
    return lower, place - lower

"""Merging only some layers: which parameters stay each member's own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from regmean_lab.merging.depth import block_of, last_blocks


def covered(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern (``*``, ``?``; case-sensitive) matches a parameter's name or that of a module around it."""
    parts = name.split(".")
    around = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatchcase(part, pattern) for pattern in patterns for part in around)


def unmatched_layers(patterns: Mapping[str, Sequence[str] | None], names: Collection[str]) -> list[str]:
    """Settings whose patterns match nothing, a message each.

    Args:
        patterns: by a setting's name, its patterns.
        names: of the model's parameters.
    """
    found = []
    for setting, own in patterns.items():
        if lost := [text for text in own or () if not any(covered(name, [text]) for name in names)]:
            found.append(f"method.{setting}: no module or parameter matches {', '.join(lost)}")
    return found


def top_blocks(names: Iterable[str], count: int) -> set[str]:
    """Parameters of the last ``count`` blocks of every stack of numbered blocks (``encoder.layer.11.…``)."""
    found = {name: block for name in names if (block := block_of(name)) is not None}
    last = last_blocks(found)
    return {name for name, (stack, number) in found.items() if number > last[stack] - count}

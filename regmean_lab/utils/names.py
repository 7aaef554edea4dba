"""Names of tensors, and names in messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""Parts of names that wrappers add: torch.compile, data parallelism, checkpointing of activations, Fabric."""


def unwrapped(name: str) -> str:
    """A tensor's name without what wrappers of models have put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def nearest(name: str, candidates: Iterable[str], *, most: int = 3, cutoff: float = 0.5) -> list[str]:
    """Valid names that are like a wrong one, the most alike first.

    Args:
        name: what was given.
        candidates: the valid names.
        most: the largest number listed.
        cutoff: how alike they must be, from 0 to 1 (the same).
    """
    return difflib.get_close_matches(name, list(candidates), n=most, cutoff=cutoff)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A hint with the nearest valid names, or all of them where none is near."""
    listed = list(candidates)
    near = nearest(name, listed)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(listed)}"


def abbreviated(names: Iterable[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(name if len(name) <= 120 else f"{name[:117]}..." for name in names[:shown]) + more

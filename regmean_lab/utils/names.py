"""Names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def abbreviated(names: Iterable[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(name if len(name) <= 120 else f"{name[:117]}..." for name in names[:shown]) + more

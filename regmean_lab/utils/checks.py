"""Checks of settings, whose messages begin with the setting's name."""

from __future__ import annotations

from collections.abc import Sequence


def one_of(setting: str, value: str, allowed: Sequence[str], found: list[str]) -> None:
    """Append a message to ``found`` unless ``value`` is one of those ``allowed``."""
    if value not in allowed:
        found.append(f"{setting}: expected one of {', '.join(allowed)}, got {value!r}")

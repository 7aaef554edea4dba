"""Checks of settings, whose messages begin with the setting's name."""

from __future__ import annotations

import math
from collections.abc import Sequence


def one_of(setting: str, value: str, allowed: Sequence[str], found: list[str]) -> None:
    """Append a message to ``found`` unless ``value`` is one of those ``allowed``."""
    if value not in allowed:
        found.append(f"{setting}: expected one of {', '.join(allowed)}, got {value!r}")


def positive(setting: str, value: float, found: list[str]) -> None:
    """Append a message to ``found`` unless ``value`` is a positive, finite number."""
    if not (math.isfinite(value) and value > 0):
        found.append(f"{setting}: expected a positive number, got {value}")


def at_least_one(setting: str, value: int, found: list[str]) -> None:
    """Append a message to ``found`` unless ``value`` is at least 1."""
    if value < 1:
        found.append(f"{setting}: expected at least 1, got {value}")


def fraction(setting: str, value: float, found: list[str], *, zero: bool = True, one: bool = True) -> None:
    """Append a message to ``found`` unless ``value`` lies between 0 and 1; ``zero`` and ``one`` allow the ends."""
    if not ((value >= 0 if zero else value > 0) and (value <= 1 if one else value < 1)):
        ends = f"{'from' if zero else 'above'} 0 {'to' if one else 'to below'} 1"
        found.append(f"{setting}: expected a number {ends}, got {value}")


def is_number(value: object) -> bool:
    """Whether something that was read from a file is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

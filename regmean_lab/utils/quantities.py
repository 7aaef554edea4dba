"""Durations, sizes of files and counts as text for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration in the two largest units that say something: ``3 h 20 min``, ``45 s``."""
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def byte_size(size: float) -> str:
    """A number of bytes in a fitting unit, of 1000 of the next smaller one: ``1.4 GB``."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:  # what would be rounded to 1000
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"


def counted(number: int, noun: str) -> str:
    """A number and its noun: ``1 seed``, ``5 seeds``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""The error of this package."""

from __future__ import annotations

from collections.abc import Iterable

from regmean_lab.utils.errors import UserError


class StatisticsError(UserError, RuntimeError):
    """Statistics could not be collected, stored or read; the message says what was wrong and what to do."""


def name_list(names: Iterable[str], limit: int = 8) -> str:
    """The names quoted and joined by commas; past ``limit`` names only their number is given."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) <= limit:
        return ", ".join(quoted)
    return f"{', '.join(quoted[:limit])} and {len(quoted) - limit} more"

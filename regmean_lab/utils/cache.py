"""Where this package keeps what it can make again, for other processes of the same user."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "REGMEAN_LAB_CACHE"
"""Environment variable that names the folder; empty: nothing is kept."""


def cache_folder() -> Path | None:
    """The folder, which may not be there yet: what the variable says, or ``regmean-lab`` in the user's cache folder.

    Returns:
        None where nothing is to be kept: the variable is empty, or nobody knows the user's folder.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        return Path(named).expanduser() if named else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regmean-lab"
    except RuntimeError:  # a user without a home
        return None

"""The name of the sweep that a job belongs to, which its process inherits."""

from __future__ import annotations

import os
from datetime import datetime

SWEEP_VARIABLE = "REGMEAN_LAB_SWEEP"
"""Environment variable that tells the jobs of a sweep which sweep they belong to."""


def begin_sweep() -> str:
    """Name this command's sweep in the environment, which its jobs inherit in whatever process they run."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"
    os.environ[SWEEP_VARIABLE] = name
    return name


def current_sweep() -> str | None:
    """Name of the sweep that this process works for; None outside of the command."""
    return os.environ.get(SWEEP_VARIABLE)

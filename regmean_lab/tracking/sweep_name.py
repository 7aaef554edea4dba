"""The name of the command that a job belongs to, which its process inherits."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import datetime

SWEEP_VARIABLE = "REGMEAN_LAB_SWEEP"
"""Environment variable that tells the jobs of a sweep which sweep they belong to."""

COMMAND_VARIABLE = "REGMEAN_LAB_COMMAND"
"""Environment variable that tells them how it was started."""


def begin_sweep() -> str:
    """Name this command and its sweep in the environment, which its jobs inherit in whatever process they run."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}"
    os.environ[SWEEP_VARIABLE] = name
    os.environ[COMMAND_VARIABLE] = shlex.join(["python", "-m", "regmean_lab", *sys.argv[1:]])
    return name


def current_sweep() -> str | None:
    """Name of the sweep that this process works for; None outside of the command."""
    return os.environ.get(SWEEP_VARIABLE)

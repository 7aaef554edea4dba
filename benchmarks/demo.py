"""The demo, from nothing: two members are trained, their statistics collected, and five methods compared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from benchmarks.command_line import common_overrides, run_sweep
from benchmarks.figure import Figure, Setting
from benchmarks.measure import seconds

GOAL = 30.0
"""Most seconds on a GPU; on a processor there is no goal."""


def figures(setting: Setting) -> list[Figure]:
    """The one figure; each round has a zoo of its own."""
    taken = []
    for _ in range(setting.repeats):
        with tempfile.TemporaryDirectory() as folder:
            overrides = ["+multirun_sweeps=demo", *common_overrides(setting, Path(folder))]
            taken.append(seconds(lambda overrides=overrides: run_sweep(overrides), setting.device))  # type: ignore[misc]
    goal = GOAL if setting.on_gpu else None
    return [Figure("the demo, with its start: seconds", median(taken), min(taken), max(taken), goal)]

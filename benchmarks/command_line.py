"""The project's own command, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figure import Setting


def common_overrides(setting: Setting, folder: Path) -> list[str]:
    """Overrides of all runs of a family: where, with which data, and a zoo and results below ``folder``."""
    return [
        *(["debug=fast"] if setting.pico else []),
        *("trainer.progress_bar=false", "logger=none", f"trainer={'gpu' if setting.on_gpu else 'cpu'}"),
        f"paths.data_dir={setting.data_dir.resolve()}",
        *(f"paths.zoo_dir={folder / 'zoo'}", f"paths.output_dir={folder / 'outputs'}"),
    ]


def run_sweep(overrides: Sequence[str]) -> None:
    """``python -m regmean_lab -m``, in this environment.

    Raises:
        RuntimeError: when it fails, with the end of what it wrote.
    """
    command = [sys.executable, "-m", "regmean_lab", "-m", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")

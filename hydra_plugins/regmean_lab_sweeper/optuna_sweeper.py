"""A sweeper that searches: trials are drawn by a sampler, evaluated on dev, and the best is run once on test.

The search itself is in ``regmean_lab.sweeps.search``; Optuna is imported when it begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from .staged_sweeper import StagedSweeper


class OptunaSweeper(StagedSweeper):
    """Searches settings in the stages of `StagedSweeper`, by the configured launcher.

    Args:
        n_trials: how many trials, of each search.
        sampler: what draws them.
        seed: of the sampler.
        n_jobs: how many trials are drawn and launched at a time.
        staged: as of `StagedSweeper`.
    """

    def __init__(self, n_trials: Any, sampler: Any, seed: Any, n_jobs: Any, **staged: Any) -> None:
        super().__init__(**staged)
        self.drawn = {"n_trials": n_trials, "sampler": sampler, "seed": seed, "n_jobs": n_jobs}

    def run(self, arguments: list[str], launcher: Launcher, output_dir: Path) -> list[JobReturn]:
        """Run all trials, and the best; see :func:`regmean_lab.sweeps.search.run_search`."""
        from regmean_lab.config.search import Search
        from regmean_lab.sweeps.live import watched
        from regmean_lab.sweeps.search import run_search  # takes seconds to import; Hydra imports plugins every time

        search = Search(**self.drawn, select=self.select)
        return run_search(self.params, self.grids, arguments, watched(launcher), output_dir, search, self.until)

"""A sweeper whose jobs share what they need: members are trained once, statistics collected once, then the jobs run.

Hydra's launchers do the work; the stages themselves are in ``regmean_lab.sweeps.stages``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StagedSweeper(Sweeper):
    """Runs Cartesian products of parameters in stages, each by the configured launcher.

    Args:
        params: parameters by key, as on a command line.
        grids: several sets of parameters, each a product of its own, besides or instead of ``params``.
        until: the last stage that is run: ``train``, ``statistics`` or ``jobs``.
        select: ``best``: jobs that differ in settings alone are run on dev, and the best of them on test.
    """

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        grids: Sequence[Mapping[str, Any]] | None = None,
        until: str = "jobs",
        select: str | None = None,
    ) -> None:
        self.params = params or {}
        self.grids = grids or []
        self.until = until
        self.select = select
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before the sweep."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run all jobs.

        Args:
            arguments: overrides of the command line.

        Returns:
            What the launcher returned of each job that it ran.

        Raises:
            SystemExit: with status 1 when a job has failed; the summary of the sweep says which.
        """
        assert self.launcher is not None
        assert self.config is not None
        return self.run(arguments, self.launcher, Path(self.config.paths.output_dir))

    def run(self, arguments: list[str], launcher: Launcher, output_dir: Path) -> list[JobReturn]:
        """Run all jobs; see :func:`regmean_lab.sweeps.stages.run_sweep`."""
        from regmean_lab.sweeps.live import watched
        from regmean_lab.sweeps.stages import run_sweep  # takes seconds to import; Hydra imports plugins every time

        return run_sweep(self.params, self.grids, arguments, watched(launcher), output_dir, self.until, self.select)

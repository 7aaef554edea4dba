"""Jobs of a sweep as launchers send them to other processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)

INHERITED = "REGMEAN_LAB_"
"""Jobs get the environment variables with this prefix, on whatever machine they run."""


@dataclass(frozen=True)
class LaunchedJob:
    """What a process needs to run one job.

    Attributes:
        hydra_context: what composes its configuration.
        config: that of the command.
        task_function: what runs.
        overrides: what sets the job apart.
        number: its number in the sweep.
        singletons: the state of Hydra in the command's process.
        environment: variables that it gets from there.
    """

    hydra_context: HydraContext
    config: DictConfig
    task_function: TaskFunction
    overrides: Sequence[str]
    number: int
    singletons: Any
    environment: Mapping[str, str]

    def run(self, job_id: str | None = None) -> JobReturn:
        """Run the job in this process, in the folder where the command was started.

        Args:
            job_id: how the scheduler calls it.
        """
        os.environ.update(self.environment)
        os.chdir(self.config.hydra.runtime.cwd)
        setup_globals()
        Singleton.set_state(self.singletons)
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = job_id or f"{config.hydra.job.name}_{self.number}"
            config.hydra.job.num = self.number
        HydraConfig.instance().set_config(config)
        return run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


class JobLauncher(Launcher):
    """Base of launchers that send jobs to other processes."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives every launcher."""
        self.config, self.task_function, self.hydra_context = config, task_function, hydra_context

    def launched(self, job_overrides: Sequence[Sequence[str]], first: int, where: str) -> list[LaunchedJob]:
        """The jobs of a stage, which are told, and the folder of the sweep for them.

        Args:
            job_overrides: the overrides of each.
            first: number of the first.
            where: what the log says of where they run.
        """
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.task_function is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
        singletons, known = Singleton.get_state(), (self.hydra_context, self.config, self.task_function)
        log.info("Launching %d jobs %s", len(job_overrides), where)
        for number, overrides in enumerate(job_overrides, start=first):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        return [
            LaunchedJob(*known, list(overrides), number, singletons, environment)
            for number, overrides in enumerate(job_overrides, start=first)
        ]

"""Jobs of a sweep as launchers send them to other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

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


def launched_jobs(
    hydra_context: HydraContext | None,
    config: DictConfig | None,
    task_function: TaskFunction | None,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[LaunchedJob]:
    """The jobs of a stage.

    Args:
        hydra_context: what a launcher was given by ``setup``.
        config: likewise.
        task_function: likewise.
        job_overrides: the overrides of each.
        first: number of the first.
    """
    assert hydra_context is not None
    assert config is not None
    assert task_function is not None
    environment = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    singletons = Singleton.get_state()
    return [
        LaunchedJob(hydra_context, config, task_function, list(overrides), number, singletons, environment)
        for number, overrides in enumerate(job_overrides, start=first)
    ]

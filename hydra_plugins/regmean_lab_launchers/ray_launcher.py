"""Runs each job of a sweep as a Ray task, on a cluster of this machine or on one that is already there.

Hydra finds the module by its place in the namespace package ``hydra_plugins``; ``conf/hydra/launcher/ray.yaml`` has the
settings. It needs the package ``ray`` alone, and imports it when the first job is launched.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

LOCAL_CLUSTER_ONLY = ("num_cpus", "num_gpus", "include_dashboard")
"""Arguments of ``ray.init`` that describe a cluster which it starts, and that it refuses for one that is there."""

LOCAL_CLUSTER_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Read when ``ray`` is imported: a cluster that it starts then listens on 127.0.0.1 only, as on Windows and macOS."""

INHERITED = "REGMEAN_LAB_"
"""Jobs get the environment variables with this prefix, on whatever machine they run."""

log = logging.getLogger(__name__)


class RayLauncher(Launcher):
    """Launches jobs as Ray tasks.

    Args:
        ray: ``init``: arguments of ``ray.init`` (without an address it starts a cluster on this machine, which ends
            with the command); ``remote``: arguments of ``ray.remote``, what each job takes of the cluster.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.init = init_arguments(ray.init)
        self.remote = _given(ray.remote)
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives every launcher."""
        self.config, self.task_function, self.hydra_context = config, task_function, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, as many at once as the cluster has room for; a job whose process is lost counts as failed."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers
        if "address" not in self.init:
            os.environ.update(LOCAL_CLUSTER_ENVIRONMENT)
        import ray
        from ray.exceptions import RayError

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        if not ray.is_initialized():
            ray.init(**self.init)
        log.info("Launching %d jobs on Ray", len(job_overrides))
        run = ray.remote(**self.remote)(run_in_worker)
        environment = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
        references = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = f"{config.hydra.job.name}_{number}"
                config.hydra.job.num = number
            references.append(
                run.remote(self.hydra_context, config, self.task_function, Singleton.get_state(), environment)
            )
        returned = []
        for reference, overrides in zip(references, job_overrides, strict=True):
            try:
                returned.append(ray.get(reference))
            except RayError as error:  # the process was killed, or what it returned could not be sent
                log.error("lost the job %s: %s", " ".join(filter_overrides(overrides)), error)
                lost = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
                lost.return_value = error
                returned.append(lost)
        return returned


def init_arguments(configured: DictConfig) -> dict[str, Any]:
    """Arguments of ``ray.init``: those that are not null and, for a cluster that is there, not about starting one."""
    given = _given(configured)
    if "address" not in given:
        return given
    return {name: value for name, value in given.items() if name not in LOCAL_CLUSTER_ONLY}


def run_in_worker(
    hydra_context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    singletons: Any,
    environment: Mapping[str, str],
) -> JobReturn:
    """Run one job in a Ray worker, in the folder where the command was started."""
    os.environ.update(environment)
    os.chdir(config.hydra.runtime.cwd)
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _given(configured: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(configured, resolve=True)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items() if value is not None}

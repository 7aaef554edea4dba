"""Runs each job of a sweep as a Ray task, on a cluster of this machine or on one that is already there.

Hydra finds the module by its place in the namespace package ``hydra_plugins``; ``conf/hydra/launcher/ray.yaml`` has the
settings. It needs the package ``ray`` alone, and imports it when the first job is launched.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, configure_log
from omegaconf import DictConfig, OmegaConf

from regmean_lab.sweeps.launched_jobs import JobLauncher, LaunchedJob

LOCAL_CLUSTER_ONLY = ("num_cpus", "num_gpus", "include_dashboard")
"""Arguments of ``ray.init`` that describe a cluster which it starts, and that it refuses for one that is there."""

LOCAL_CLUSTER_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Read when ``ray`` is imported: a cluster that it starts then listens on 127.0.0.1 only, as on Windows and macOS."""

log = logging.getLogger(__name__)


class RayLauncher(JobLauncher):
    """Launches jobs as Ray tasks.

    Args:
        ray: ``init``: arguments of ``ray.init`` (without an address it starts a cluster on this machine, which ends
            with the command); ``remote``: arguments of ``ray.remote``, what each job takes of the cluster.
    """

    def __init__(self, ray: DictConfig) -> None:
        super().__init__()
        self.init = init_arguments(ray.init)
        self.remote = _given(ray.remote)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs, as many at once as the cluster has room for; a job whose process is lost counts as failed."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers
        if "address" not in self.init:
            os.environ.update(LOCAL_CLUSTER_ENVIRONMENT)
        import ray
        from ray.exceptions import RayError

        from regmean_lab.sweeps.lost_jobs import lost_job

        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        jobs = self.launched(job_overrides, initial_job_idx, "on Ray")
        if not ray.is_initialized():
            ray.init(**self.init)
        remote = ray.remote(**self.remote)(run_in_worker)
        references = [remote.remote(job) for job in jobs]
        returned = []
        for reference, overrides in zip(references, job_overrides, strict=True):
            try:
                returned.append(ray.get(reference))
            except RayError as error:  # the process was killed, or what it returned could not be sent
                returned.append(lost_job(overrides, str(error).strip().partition("\n")[0]))
        return returned


def init_arguments(configured: DictConfig) -> dict[str, Any]:
    """Arguments of ``ray.init``: those that are not null and, for a cluster that is there, not about starting one."""
    given = _given(configured)
    if "address" not in given:
        return given
    return {name: value for name, value in given.items() if name not in LOCAL_CLUSTER_ONLY}


def run_in_worker(job: LaunchedJob) -> JobReturn:
    """Run one job in a Ray worker."""
    return job.run()


def _given(configured: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(configured, resolve=True)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items() if value is not None}

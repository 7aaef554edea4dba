"""Runs each job of a sweep as a process of this machine, or as a task of a SLURM job array, by submitit.

The settings are those of the package hydra-submitit-launcher, which declares them. Its own launchers stop the sweep at
the first job that is killed, and wait for ever where SLURM keeps no accounts; so these are used.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from regmean_lab.sweeps.launched_jobs import JobLauncher, LaunchedJob

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job
    from submitit.helpers import DelayedSubmission

CONSTRUCTOR = ("max_num_timeout",)
"""Settings that submitit takes when an executor is made, and not with the others."""

ADVICE = {
    "OUT_OF_MEMORY": " (more memory: hydra.launcher.mem_gb)",
    "TIMEOUT": " (more time: hydra.launcher.timeout_min)",
}
"""What to do about a state in which a SLURM job has ended."""

log = logging.getLogger(__name__)


class SubmittedJob:
    """What submitit runs in a job's process."""

    def __call__(self, job: LaunchedJob) -> JobReturn:
        """Run the job."""
        from submitit import JobEnvironment

        return job.run(JobEnvironment().job_id)

    def checkpoint(self, job: LaunchedJob) -> DelayedSubmission:
        """What runs when a job is put into the queue again at its time limit: the same, which finds what is there."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


class SubmititLauncher(JobLauncher):
    """Launches jobs by submitit.

    Args:
        params: the settings.
    """

    cluster = ""

    def __init__(self, **params: Any) -> None:
        super().__init__()
        self.params: dict[str, Any] = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in params.items()
        }

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; one that is killed counts as failed, and the others go on.

        Raises:
            CompactHydraException: when jobs cannot be submitted.
        """
        launched = self.launched(job_overrides, initial_job_idx, f"by submitit ({self.cluster})")
        submitted = self.submit(self.executor(), launched)
        return self.wait(submitted, job_overrides)

    def executor(self) -> AutoExecutor:
        """Submitit's object with all settings."""
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
        from submitit import AutoExecutor

        shared = {field.name for field in dataclasses.fields(BaseQueueConf)}
        named = {name if name in shared else f"{self.cluster}_{name}": value for name, value in self.params.items()}
        folder = named.pop("submitit_folder")
        construct = {
            name: named.pop(name) for name in [f"{self.cluster}_{each}" for each in CONSTRUCTOR] if name in named
        }
        executor = AutoExecutor(folder, cluster=self.cluster, **construct)
        executor.update_parameters(**named)
        return executor

    def submit(self, executor: AutoExecutor, launched: Sequence[LaunchedJob]) -> list[Job[JobReturn]]:
        """Hand the jobs to the scheduler."""
        return executor.map_array(SubmittedJob(), launched)

    def wait(self, submitted: Sequence[Job[JobReturn]], job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
        """What each job returns, when all have ended."""
        return [self.returned(job, overrides) for job, overrides in zip(submitted, job_overrides, strict=True)]

    def returned(self, job: Job[JobReturn], overrides: Sequence[str]) -> JobReturn:
        """What a job returns when it has ended; that of a lost job says what became of it."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        from regmean_lab.sweeps.lost_jobs import lost_job

        try:
            return job.results()[0]
        except FailedJobError as error:  # it could not begin, or its end could not be sent
            lines = [line for line in str(error).splitlines() if line.strip(" -")]
            traceback_end = next((line for line in reversed(lines[:-3]) if not line.startswith(" ")), lines[0])
            return lost_job(overrides, f"{traceback_end}; what it wrote: {job.paths.stderr}")
        except UncompletedJobError:
            return lost_job(overrides, f"its process was killed; what it wrote: {job.paths.stderr}")


class SubmititLocalLauncher(SubmititLauncher):
    """Launches jobs as processes of this machine, all at once."""

    cluster = "local"


class SubmititSlurmLauncher(SubmititLauncher):
    """Launches jobs as tasks of a SLURM job array."""

    cluster = "slurm"

    def submit(self, executor: AutoExecutor, launched: Sequence[LaunchedJob]) -> list[Job[JobReturn]]:
        """Hand the jobs to SLURM.

        Raises:
            CompactHydraException: when it does not take them, with what it says.
        """
        from submitit.core.utils import FailedJobError

        try:
            return super().submit(executor, launched)
        except FailedJobError as error:
            said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
            hint = "; gpus_per_node=null asks for no GPU" if self.params.get("gpus_per_node") else ""
            raise CompactHydraException(
                f"SLURM does not take the jobs: {said}. Its settings are below hydra.launcher{hint} "
                "(docs/launchers.md#slurm)"
            ) from error

    def wait(self, submitted: Sequence[Job[JobReturn]], job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
        """What each job returns, when all have ended or are certainly lost."""
        from regmean_lab.sweeps.lost_jobs import lost_job
        from regmean_lab.sweeps.slurm_queue import SlurmQueue

        numbers = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in submitted))
        log.info("SLURM jobs: %s", numbers)
        queue = SlurmQueue(job.job_id for job in submitted)
        returned = []
        try:
            for job, overrides in zip(submitted, job_overrides, strict=True):
                while not has_result(job) and (state := queue.lost(job.job_id)) is None:
                    time.sleep(1)
                if has_result(job):
                    returned.append(self.returned(job, overrides))
                else:
                    returned.append(lost_job(overrides, self.end_of(job, str(state))))
        except KeyboardInterrupt:
            log.warning("the jobs go on without the command; to end them: scancel %s", numbers)
            raise
        return returned

    def end_of(self, job: Job[JobReturn], state: str) -> str:
        """How a job ended that left no result, and what to do about it."""
        from regmean_lab.sweeps.slurm_queue import FORGOTTEN

        if not job.paths.stderr.exists():
            how = "was cancelled" if state in ("CANCELLED", FORGOTTEN) else f"ended as {state}"
            return f"SLURM job {job.job_id} {how} before it began"
        if state == FORGOTTEN:
            how = "has no result, and SLURM does not know it any more"
        else:
            how = f"ended as {state}{ADVICE.get(state, '')}"
        return f"SLURM job {job.job_id} {how}; what it wrote: {job.paths.stderr}"


def has_result(job: Job[JobReturn]) -> bool:
    """Whether a job has left what it returns."""
    folder = job.paths.folder
    with suppress(OSError):
        os.chmod(folder, folder.stat().st_mode)  # makes a file system of a network look again
    return job.paths.result_pickle.exists()

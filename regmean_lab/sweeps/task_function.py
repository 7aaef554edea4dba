"""One job as Hydra's launchers call it, in this process or in another one.

Launchers that start processes send the function there by its name, so it lies in a module that can be imported.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from regmean_lab.config.checkpoint_commands import root_module
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.sweeps.summary import JobRecord, record_job, show_measured
from regmean_lab.utils.garbage import collect_again
from regmean_lab.utils.quiet import quiet_libraries
from regmean_lab.utils.threads import limit_threads

NOT_ENDED = "it did not end: its process was interrupted or killed"

log = logging.getLogger(__name__)


class JobError(CompactHydraException):
    """A job that failed for a reason the message explains; Hydra prints it without a traceback."""


def job(config: DictConfig) -> float | None:
    """One job, or a step that jobs of a sweep share; returns the job's mean in-domain score."""
    import torch  # this and the others take seconds

    from regmean_lab.experiment import run
    from regmean_lab.sweeps.steps import step_of
    from regmean_lab.utils.errors import UserError

    collect_again()
    register_resolvers()
    quiet_libraries()
    hydra_config = HydraConfig.get()
    limit_threads(config.trainer.threads, hydra_config.launcher)
    overrides = list(hydra_config.overrides.task)
    folder, output_dir = Path(hydra_config.runtime.output_dir), Path(config.paths.output_dir)
    number = hydra_config.job.num if hydra_config.mode == RunMode.MULTIRUN else 0
    step = step_of(hydra_config.sweeper)

    def record(error: str | None, computed: bool = False) -> None:
        told = f"{step.name}: {error}" if step is not None else error
        record_job(output_dir, number, JobRecord(overrides, str(folder), told, computed))

    try:
        if step is not None:
            from regmean_lab.sweeps.step_work import run_step  # imports Lightning, which finding results does not need

            run_step(step, config, folder)
            return None
        record(NOT_ENDED)  # a process that is killed leaves this record as the last one
        result, computed = run(config, folder, overrides)
    except UserError as error:
        record(str(error))
        raise JobError(str(error)) from error
    except Exception as error:
        log.exception("the job failed")
        record(f"{type(error).__name__}: {error}")
        raise
    finally:
        # Jobs of a sweep share a process: leave no memory of the GPU behind for the next one.
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
    record(None, computed)
    return result.mean_in_domain


def root_job(config: DictConfig) -> None:
    """One job of an experiment with a root configuration of its own."""
    from regmean_lab.utils.errors import UserError

    collect_again()
    register_resolvers()
    quiet_libraries()
    hydra_config = HydraConfig.get()
    limit_threads(config.trainer.threads, hydra_config.launcher)
    try:
        measured = root_module(config.experiment).run(config, Path(hydra_config.runtime.output_dir))
        if measured is not None:
            show_measured(measured)
    except UserError as error:
        if hydra_config.mode == RunMode.MULTIRUN:  # Hydra tells only the first error of a sweep, when it has ended
            log.error("failed: %s: %s", " ".join(hydra_config.overrides.task), error)
        raise JobError(str(error)) from error

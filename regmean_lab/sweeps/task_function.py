"""One job as Hydra's launchers call it, in this process or in another one.

Launchers that start processes send the function there by its name, so it lies in a module that can be imported.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from regmean_lab.config.checkpoint_commands import planned_module, root_module
from regmean_lab.config.method_option import chosen_option
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.sweeps.checkpoint_summary import (
    CheckpointRecord,
    ended_line,
    record_checkpoint_job,
    show_measured,
    write_table,
)
from regmean_lab.sweeps.summary import JobRecord, record_job
from regmean_lab.utils.disk import DiskShortage, named_setting, writing
from regmean_lab.utils.garbage import collect_again
from regmean_lab.utils.progress import is_listened, job_begins, job_ended
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

    name = job_name(config) if step is None else step.name
    try:
        with _told(name, several=hydra_config.mode == RunMode.MULTIRUN) as scores, _on_disk(config):
            if step is not None:
                from regmean_lab.sweeps.step_work import run_step  # imports Lightning; finding results does without

                run_step(step, config, folder)
                return None
            record(NOT_ENDED)  # a process that is killed leaves this record as the last one
            result, computed = run(config, folder, overrides)
            scores.append(result.mean_in_domain)
    except UserError as error:
        told = str(error)
        _record_if_possible(lambda: record(told))
        raise JobError(told) from error
    except Exception as error:
        log.exception("the job failed")
        text = f"{type(error).__name__}: {error}"
        _record_if_possible(lambda: record(text))
        raise
    finally:
        # Jobs of a sweep share a process: leave no memory of the GPU behind for the next one.
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
    _record_if_possible(lambda: record(None, computed))
    return result.mean_in_domain


@contextmanager
def _on_disk(config: DictConfig) -> Iterator[None]:
    """Tell an error for want of room, wherever it comes from, and by which setting the folder is chosen."""
    try:
        with writing(None):
            yield
    except DiskShortage as error:
        folders = {
            f"paths.{key}": Path(str(folder))
            for key, folder in (OmegaConf.select(config, "paths") or {}).items()
            if folder is not None
        }
        if (output := OmegaConf.select(config, "output")) is not None:
            folders["output"] = Path(str(output)).expanduser()
        text = named_setting(str(error), error.path, folders)
        raise DiskShortage.of(text, error) from error


def _record_if_possible(write: Callable[[], None]) -> None:
    """Leave a record for the summary; on a full disk the job's own end counts."""
    try:
        write()
    except DiskShortage as error:
        log.warning("the summary does not tell how this job ended: %s", str(error).splitlines()[0])


def job_name(config: DictConfig) -> str:
    """What people call a job, before it is known whether its configuration is sound: ``tec+isear regmean seed 1``."""
    members = OmegaConf.select(config, "members")
    named = "+".join(map(str, members)) if members else f"all of {OmegaConf.select(config, 'suite.name')}"
    return f"{named} {_method(config)} seed {OmegaConf.select(config, 'seed')}"


def _method(config: DictConfig) -> str | None:
    """What the method of the running job is called; None where it has none."""
    name = OmegaConf.select(config, "method.name")
    return name if name is None else chosen_option(str(name)) or str(name)


def end_text(job: str, score: float | None, problem: str | None) -> str:
    """How a job ended, in words."""
    if problem is not None:
        return f"{job} failed"
    return job if score is None else f"{job}: {score:.2f} in domain"


@contextmanager
def _told(job: str, several: bool) -> Iterator[list[float]]:
    """Tell that a job begins, and how it ended; of several jobs in other processes, by a line in the log.

    What it gives is filled with the job's score.
    """
    job_begins(job)
    scores: list[float] = []
    try:
        yield scores
    except Exception as error:
        _tell_end(job, None, str(error), several)
        raise
    _tell_end(job, scores[0] if scores else None, None, several)


def _tell_end(job: str, score: float | None, problem: str | None, several: bool) -> None:
    if is_listened():
        job_ended(job, score, problem)
    elif several:
        log.info("%s", end_text(job, score, problem))


def root_job(config: DictConfig) -> None:
    """One job of an experiment with a root configuration of its own; of several, each tells its end in a line."""
    from regmean_lab.utils.errors import UserError

    collect_again()
    register_resolvers()
    quiet_libraries()
    hydra_config = HydraConfig.get()
    limit_threads(config.trainer.threads, hydra_config.launcher)
    several = hydra_config.mode == RunMode.MULTIRUN
    overrides, folder, started = list(hydra_config.overrides.task), hydra_config.runtime.output_dir, time.perf_counter()

    def record(error: str | None, **more: Any) -> None:
        if several:
            ended = CheckpointRecord(overrides, str(folder), error, **more)
            record_checkpoint_job(Path(config.paths.output_dir), hydra_config.job.num, ended)

    try:
        if OmegaConf.select(config, "plan"):  # of a YAML file: that of a command line is told without a job
            print("\n".join(planned_module(config.experiment).plan(config)))
            return
        record(NOT_ENDED)
        with _on_disk(config):
            measured = root_module(config.experiment).run(config, Path(folder))
            seconds = time.perf_counter() - started
            if measured is not None and measured.results:
                (write_table if several else show_measured)(measured)
    except UserError as error:
        record(str(error))
        if several:  # Hydra tells only the first error of a sweep, when it has ended
            log.error("failed: %s: %s", " ".join(overrides), error)
        raise JobError(str(error)) from error
    except Exception as error:
        record(f"{type(error).__name__}: {error}")
        raise
    if several:
        log.info("%s", ended_line(f"#{hydra_config.job.num} {root_job_name(config)}", measured, seconds))
        record(
            None,
            computed=True,
            name=root_job_name(config),
            configuration=OmegaConf.to_container(config, resolve=True),
            seconds=seconds,
            written=None if measured is None or measured.written is None else str(measured.written),
            places=[] if measured is None else [str(place) for place in measured.places],
            merged=1 if measured is None else measured.merged,
        )


def root_job_name(config: DictConfig) -> str:
    """What tables call a job of an experiment with a root configuration of its own: its recipe or method."""
    recipe = OmegaConf.select(config, "recipe")
    return Path(str(recipe)).stem if recipe else _method(config) or str(config.experiment)

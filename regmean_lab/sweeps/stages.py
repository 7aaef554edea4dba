"""A sweep in stages: train missing members, collect missing statistics, then merge and evaluate.

In each stage no two jobs do the same work, so they may run in parallel without waiting for each other. What is there
already is not launched: a sweep that was stopped goes on where it was.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.config.grids import Composer, config_loader, grids, jobs_of
from regmean_lab.results import RESULT_FILE
from regmean_lab.sweeps.plan import Plan, PlannedJob, PlannedMember, PlannedStatistics, make_plan
from regmean_lab.sweeps.summary import JobRecord, record_job

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
"""Runs jobs, each given by its overrides; the second argument is the number of the first."""

log = logging.getLogger(__name__)


def run_sweep(
    params: Mapping[str, Any],
    own_grids: Iterable[Mapping[str, Any]],
    arguments: Sequence[str],
    launch: Launch,
    output_dir: Path,
) -> list[JobReturn]:
    """Plan a sweep and run it.

    Args:
        params: parameters by key.
        own_grids: sets of parameters, each a product of its own.
        arguments: overrides of the command line.
        launch: the launcher.
        output_dir: where records of the jobs are left.

    Returns:
        What the launcher returned of each job that it ran in the last stage.

    Raises:
        SystemExit: with status 1 when a job has failed.
    """
    parser = OverridesParser.create(config_loader=config_loader())
    jobs = jobs_of(grids(params, own_grids, parser.parse_overrides(list(arguments))))
    refused: list[JobRecord] = []
    plan = make_plan(composed(jobs, refused))
    refused += [JobRecord(list(overrides), "", problem) for overrides, problem in plan.refused]
    returned, failed = run_stages(plan, launch, output_dir, refused)
    if failed:
        sys.exit(1)
    return returned


def composed(jobs: Iterable[Sequence[str]], refused: list[JobRecord]) -> Iterator[tuple[Sequence[str], DictConfig]]:
    """Overrides and configuration of each job; those that cannot be composed are added to ``refused`` instead."""
    composer = Composer()
    for overrides in jobs:
        try:
            config = composer.compose(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            refused.append(JobRecord(list(overrides), "", str(error)))
        else:
            yield overrides, config


def run_stages(
    plan: Plan, launch: Launch, output_dir: Path, refused: Sequence[JobRecord] = ()
) -> tuple[list[JobReturn], bool]:
    """Run the stages of a plan and leave a record of every job.

    A job whose member or statistics could not be had is not launched: it would fail in the same way.

    Args:
        plan: what to do.
        launch: the launcher.
        output_dir: where records of the jobs are left.
        refused: jobs that could not even be planned.

    Returns:
        What the launcher returned of each job that it ran in the last stage, and whether a job has failed.
    """
    log.info(
        "%d jobs, %d of them finished; %d members to train, %d statistics to collect",
        *(len(plan.jobs), len(plan.jobs) - len(plan.unfinished), len(plan.to_train), len(plan.to_collect)),
    )
    number, failed = 0, bool(refused)
    members, statistics = plan.to_train, plan.to_collect
    returned = _launch(launch, [_stage(part.overrides, "train", part.training.name) for part in members], number)
    for member, job_return in zip(members, returned, strict=True):
        if job_return.status != JobStatus.COMPLETED:
            member.problem = f"{'+'.join(member.training.corpora)}, seed {member.training.seed}, could not be trained"
    number += len(members)
    statistics = [part for part in statistics if part.member.problem is None]
    returned = _launch(
        launch, [_stage(part.overrides, "statistics", part.member.training.name) for part in statistics], number
    )
    for part, job_return in zip(statistics, returned, strict=True):
        if job_return.status != JobStatus.COMPLETED:
            name = f"{part.member.training.name}, seed {part.member.training.seed}"
            part.problem = f"{part.kind} statistics of {name} could not be collected"
    number += len(statistics)
    ready = [job for job in plan.unfinished if not _problems(job)]
    returned = _launch(launch, [list(job.overrides) for job in ready], number)
    failed |= any(member.problem for member in members) or any(part.problem for part in statistics)
    failed |= any(job_return.status != JobStatus.COMPLETED for job_return in returned)
    number += len(ready)
    for job in plan.jobs:
        if job.finished:
            log.info("found the finished result %s", job.folder / RESULT_FILE)
            _record(output_dir, job, number, None)
            number += 1
        elif problems := _problems(job):
            _record(output_dir, job, number, f"not run: {'; '.join(problems)}")
            number += 1
    for record in refused:
        record_job(output_dir, number, record)
        number += 1
    return list(returned), failed


def _launch(launch: Launch, jobs: Sequence[Sequence[str]], number: int) -> Sequence[JobReturn]:
    return launch(jobs, number) if jobs else []


def _stage(overrides: Sequence[str], stage: str, member: str) -> list[str]:
    return [*overrides, f"stage={stage}", f"stage_members=[{member}]"]


def _problems(job: PlannedJob) -> list[str]:
    needed: list[PlannedMember | PlannedStatistics] = [*job.members, *job.statistics]
    return list(dict.fromkeys(part.problem for part in needed if part.problem is not None))


def _record(output_dir: Path, job: PlannedJob, number: int, error: str | None) -> None:
    record_job(output_dir, number, JobRecord(list(job.overrides), str(job.folder), error))

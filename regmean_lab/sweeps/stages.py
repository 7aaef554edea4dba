"""A sweep in stages: train missing members, collect missing statistics, then run the jobs, which merge and evaluate.

In each stage nothing is done twice, so all of it may run in parallel without waiting for each other. What is there
already is not launched: a sweep that was stopped resumes where it was.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.config.grids import Composer, SweepError, config_loader, grids, jobs_of
from regmean_lab.results import RESULT_FILE
from regmean_lab.sweeps.plan import Plan, PlannedJob, PlannedMember, PlannedStatistics, make_plan
from regmean_lab.sweeps.summary import JobRecord, record_job

Part = TypeVar("Part", PlannedMember, PlannedStatistics)

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
"""Runs jobs, each given by its overrides; the second argument is the number of the first."""

STAGES = ("train", "statistics", "jobs")

log = logging.getLogger(__name__)


def run_sweep(
    params: Mapping[str, Any],
    own_grids: Iterable[Mapping[str, Any]],
    arguments: Sequence[str],
    launch: Launch,
    output_dir: Path,
    last: str = STAGES[-1],
) -> list[JobReturn]:
    """Plan a sweep and run it.

    Args:
        params: parameters by key.
        own_grids: sets of parameters, each a product of its own.
        arguments: overrides of the command line.
        launch: the launcher.
        output_dir: where records of the jobs are left.
        last: the last of ``STAGES`` that is run.

    Returns:
        What the launcher returned of each job that it ran.

    Raises:
        SweepError: for a stage that there is not.
        SystemExit: with status 1 when a job has failed.
    """
    if last not in STAGES:
        raise SweepError(f"hydra.sweeper.until: expected {', '.join(STAGES[:-1])} or {STAGES[-1]}, got {last!r}")
    parser = OverridesParser.create(config_loader=config_loader())
    jobs = jobs_of(grids(params, own_grids, parser.parse_overrides(list(arguments))))
    refused: list[JobRecord] = []
    plan = make_plan(composed(jobs, refused))
    refused += [JobRecord(list(overrides), "", problem) for overrides, problem in plan.refused]
    returned, failed = run_stages(plan, launch, output_dir, refused, last)
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
    plan: Plan, launch: Launch, output_dir: Path, refused: Sequence[JobRecord] = (), last: str = STAGES[-1]
) -> tuple[list[JobReturn], bool]:
    """Run the stages of a plan and leave a record of every job.

    A job whose member or statistics could not be had is not launched: it would fail in the same way.

    Args:
        plan: what to do.
        launch: the launcher.
        output_dir: where records of the jobs are left.
        refused: jobs that could not even be planned.
        last: the last of ``STAGES`` that is run.

    Returns:
        What the launcher returned of each job that it ran, and whether anything has failed.
    """
    log.info(
        "%d jobs, %d of them finished; %d members to train, %d statistics to collect",
        *(len(plan.jobs), len(plan.jobs) - len(plan.unfinished), len(plan.to_train), len(plan.to_collect)),
    )
    stages = STAGES[: STAGES.index(last) + 1]
    number, failed = 0, bool(refused)
    members = plan.to_train
    for member in _failed_steps(launch, members, number):
        member.problem = f"{'+'.join(member.training.corpora)}, seed {member.training.seed}, could not be trained"
        failed = True
    number += len(members)
    to_collect = plan.to_collect if "statistics" in stages else []
    statistics = [part for part in to_collect if part.member.problem is None]
    for part in _failed_steps(launch, statistics, number):
        name = f"{part.member.training.name}, seed {part.member.training.seed}"
        part.problem = f"{part.kind} statistics of {name} could not be collected"
        failed = True
    number += len(statistics)
    ready = [job for job in plan.unfinished if not _problems(job)] if "jobs" in stages else []
    returned = list(launch([list(job.overrides) for job in ready], number)) if ready else []
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
    return returned, failed


def _failed_steps(launch: Launch, parts: Sequence[Part], number: int) -> list[Part]:
    """Train members or collect statistics; return the failed steps."""
    if not parts:
        return []
    returned = launch([part.step.overrides(part.job.overrides, part.job.folder_name) for part in parts], number)
    return [part for part, job_return in zip(parts, returned, strict=True) if job_return.status != JobStatus.COMPLETED]


def _problems(job: PlannedJob) -> list[str]:
    needed: list[PlannedMember | PlannedStatistics] = [*job.members, *job.statistics]
    return list(dict.fromkeys(part.problem for part in needed if part.problem is not None))


def _record(output_dir: Path, job: PlannedJob, number: int, error: str | None) -> None:
    record_job(output_dir, number, JobRecord(list(job.overrides), str(job.folder), error))

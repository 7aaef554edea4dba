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

from regmean_lab.config.grids import SELECTS, Composer, SweepError, config_loader, grids, jobs_of
from regmean_lab.config.search import SELECTION_KEY, SPLIT_KEY
from regmean_lab.results import RESULT_FILE, ResultError
from regmean_lab.sweeps.lost_jobs import reason_of_loss
from regmean_lab.sweeps.plan import Plan, PlannedJob, PlannedMember, PlannedStatistics, Planner
from regmean_lab.sweeps.selection import Group, best_of, groups_of, on_dev
from regmean_lab.sweeps.summary import JobRecord, record_job
from regmean_lab.utils.quantities import counted

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
    select: str | None = None,
) -> list[JobReturn]:
    """Plan a sweep and run it.

    Args:
        params: parameters by key.
        own_grids: sets of parameters, each a product of its own.
        arguments: overrides of the command line.
        launch: the launcher.
        output_dir: where records of the jobs are left.
        last: the last of ``STAGES`` that is run.
        select: ``best`` runs jobs that differ in settings alone on dev, and then the best of them on test.

    Returns:
        What the launcher returned of each job that it ran.

    Raises:
        SweepError: for a stage or a selection that there is not.
        SystemExit: with status 1 when a job has failed.
    """
    if select not in SELECTS:
        raise SweepError(f"hydra.sweeper.select: expected best or null, got {select!r}")
    parser = OverridesParser.create(config_loader=config_loader())
    jobs = jobs_of(grids(params, own_grids, parser.parse_overrides(list(arguments))))
    sweep = Sweep(launch, output_dir, last)
    if select is None:
        sweep.run(jobs)
    else:
        _run_selecting(sweep, jobs)
    return sweep.end()


class Sweep:
    """Plans and runs jobs in rounds, whose records are numbered through.

    Args:
        launch: the launcher.
        output_dir: where records of the jobs are left.
        last: the last of ``STAGES`` that is run.

    Attributes:
        returned: what the launcher returned of each job that it ran.
        failed: whether anything has failed.
    """

    def __init__(self, launch: Launch, output_dir: Path, last: str = STAGES[-1]) -> None:
        if last not in STAGES:
            raise SweepError(f"hydra.sweeper.until: expected {', '.join(STAGES[:-1])} or {STAGES[-1]}, got {last!r}")
        self.last = last
        self.returned: list[JobReturn] = []
        self.failed = False
        self._launch, self._output_dir, self._number = launch, output_dir, 0
        self._composer, self._planner = Composer(), Planner()

    def plan(self, jobs: Iterable[Sequence[str]]) -> Plan:
        """The plan of jobs that are not run yet; those that cannot be composed are told of when they are."""
        return self._planner.plan(composed(jobs, [], self._composer))

    def run(self, jobs: Iterable[Sequence[str]], last: str | None = None) -> Plan:
        """Plan jobs and run them.

        Args:
            jobs: the overrides of each.
            last: the last stage of this round, where it is an earlier one.
        """
        refused: list[JobRecord] = []
        plan = self._planner.plan(composed(jobs, refused, self._composer))
        refused += [JobRecord(list(overrides), "", problem) for overrides, problem in plan.refused]
        returned, failed = run_stages(plan, self._launch, self._output_dir, refused, last or self.last, self._number)
        self._number += len(plan.to_train) + len(plan.to_collect) + len(plan.jobs) + len(refused)
        self.returned += returned
        self.failed |= failed
        return plan

    def run_best(
        self,
        groups: Iterable[Group],
        others: Iterable[Sequence[str]] = (),
    ) -> None:
        """Run the best of each group of jobs, which were run on dev, once on test.

        Args:
            groups: the groups.
            others: overrides of jobs that are run beside them.
        """
        chosen = []
        for group in groups:
            try:
                selection = best_of(group)
            except ResultError as error:
                log.error("nothing is chosen among %d jobs, since one has no result: %s", len(group.jobs), error)
                continue
            log.info("%s: %s", " ".join(selection.best.overrides), selection.text)
            chosen.append(selection.overrides())
        self.run([*others, *chosen])

    def end(self) -> list[JobReturn]:
        """What the launcher returned of all jobs.

        Raises:
            SystemExit: with status 1 when a job has failed.
        """
        if self.failed:
            sys.exit(1)
        return self.returned


def _run_selecting(sweep: Sweep, jobs: Sequence[list[str]]) -> None:
    """Run each group of jobs on dev, and the best of each on test; a job that is alone is run on test at once."""
    if any(text.partition("=")[0].lstrip("+") in (SPLIT_KEY, SELECTION_KEY) for job in jobs for text in job):
        raise SweepError(
            f"{SPLIT_KEY}: hydra.sweeper.select=best evaluates on dev, and what it has chosen on test, by itself; "
            "leave it out"
        )
    groups = groups_of(sweep.plan(jobs).jobs)
    alone = [list(group[0].overrides) for group in groups if len(group) == 1]
    together = {tuple(job.overrides) for group in groups if len(group) > 1 for job in group}
    unsound = [job for job in jobs if tuple(job) not in together and job not in alone]  # which are told of once
    plan = sweep.run([on_dev(job) for job in jobs if tuple(job) in together] + unsound)
    if sweep.last == STAGES[-1]:
        sweep.run_best([Group(group) for group in groups_of(plan.jobs)], alone)


def composed(
    jobs: Iterable[Sequence[str]], refused: list[JobRecord], composer: Composer | None = None
) -> Iterator[tuple[Sequence[str], DictConfig]]:
    """Overrides and configuration of each job; those that cannot be composed are added to ``refused`` instead."""
    composer = composer or Composer()
    for overrides in jobs:
        try:
            config = composer.compose(overrides)
        except (HydraException, OmegaConfBaseException) as error:
            refused.append(JobRecord(list(overrides), "", str(error)))
        else:
            yield overrides, config


def run_stages(
    plan: Plan,
    launch: Launch,
    output_dir: Path,
    refused: Sequence[JobRecord] = (),
    last: str = STAGES[-1],
    number: int = 0,
) -> tuple[list[JobReturn], bool]:
    """Run the stages of a plan and leave a record of every job.

    A job whose member or statistics could not be had is not launched: it would fail in the same way.

    Args:
        plan: what to do.
        launch: the launcher.
        output_dir: where records of the jobs are left.
        refused: jobs that could not even be planned.
        last: the last of ``STAGES`` that is run.
        number: of the first job; records of a sweep have numbers of their own.

    Returns:
        What the launcher returned of each job that it ran, and whether anything has failed.
    """
    log.info(
        "%s, %d finished; %s to train, %d statistics to collect",
        *(counted(len(plan.jobs), "job"), len(plan.jobs) - len(plan.unfinished)),
        *(counted(len(plan.to_train), "member"), len(plan.to_collect)),
    )
    stages = STAGES[: STAGES.index(last) + 1]
    failed = bool(refused)
    members = plan.to_train
    for member in _failed_steps(launch, members, output_dir, number):
        member.problem = f"{'+'.join(member.training.corpora)}, seed {member.training.seed}, could not be trained"
        failed = True
    number += len(members)
    to_collect = plan.to_collect if "statistics" in stages else []
    statistics = [part for part in to_collect if part.member.problem is None]
    for part in _failed_steps(launch, statistics, output_dir, number):
        name = f"{part.member.training.name}, seed {part.member.training.seed}"
        part.problem = f"{part.kind} statistics of {name} could not be collected"
        failed = True
    number += len(statistics)
    ready = [job for job in plan.unfinished if not problems_of(job)] if "jobs" in stages else []
    returned = list(launch([list(job.overrides) for job in ready], number)) if ready else []
    for place, (job, job_return) in enumerate(zip(ready, returned, strict=True), start=number):
        job.failed = job_return.status != JobStatus.COMPLETED
        if reason := reason_of_loss(job_return):
            _record(output_dir, job, place, reason)
    failed |= any(job.failed for job in ready)
    number += len(ready)
    for job in plan.jobs:
        if job.finished:
            log.info("found the finished result %s", job.folder / RESULT_FILE)
            _record(output_dir, job, number, None)
            number += 1
        elif problems := problems_of(job):
            _record(output_dir, job, number, f"not run: {'; '.join(problems)}")
            number += 1
    for record in refused:
        record_job(output_dir, number, record)
        number += 1
    return returned, failed


def _failed_steps(launch: Launch, parts: Sequence[Part], output_dir: Path, number: int) -> list[Part]:
    """Train members or collect statistics; return the failed steps."""
    if not parts:
        return []
    launched = [part.step.overrides(part.job.overrides, part.job.folder_name) for part in parts]
    returned = launch(launched, number)
    for place, (part, job_return) in enumerate(zip(parts, returned, strict=True), start=number):
        if reason := reason_of_loss(job_return):  # others have left their records themselves
            folder = output_dir / part.step.folder(part.job.folder_name)
            error = f"{part.step.name}: {reason}"
            record_job(output_dir, place, JobRecord(list(part.job.overrides), str(folder), error))
    return [part for part, job_return in zip(parts, returned, strict=True) if job_return.status != JobStatus.COMPLETED]


def problems_of(job: PlannedJob) -> list[str]:
    """Why members or statistics of a job could not be had."""
    needed: list[PlannedMember | PlannedStatistics] = [*job.members, *job.statistics]
    return list(dict.fromkeys(part.problem for part in needed if part.problem is not None))


def _record(output_dir: Path, job: PlannedJob, number: int, error: str | None) -> None:
    record_job(output_dir, number, JobRecord(list(job.overrides), str(job.folder), error))

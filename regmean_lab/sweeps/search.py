"""A search in the stages of a sweep: members first, then trials on dev, then the best of each search on test.

Nothing but results is stored. What is proposed depends on the seed and the scores so far alone, and a trial whose
result is there is not run again: the same command goes on where it was stopped, and with more trials where it ended.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn

from regmean_lab.config.grids import Grid, SweepError, config_loader, grids, values_of
from regmean_lab.config.search import Search, search_problems
from regmean_lab.config.search_space import Space, space_of
from regmean_lab.results import RESULT_FILE, ResultError, read_result
from regmean_lab.suites.base import DataError
from regmean_lab.suites.evaluations import evaluations_for
from regmean_lab.sweeps.plan import Plan, PlannedJob
from regmean_lab.sweeps.samplers import Proposals, proposals
from regmean_lab.sweeps.selection import Group, on_dev
from regmean_lab.sweeps.stages import STAGES, Launch, Sweep, problems_of

log = logging.getLogger(__name__)


@dataclass
class RunningSearch:
    """One search: of one combination of all that is not searched.

    Attributes:
        fixed: the overrides that all trials have.
        space: what varies.
        proposals: where the trials come from.
        waiting: trials that were asked for and not run yet, with their values.
        jobs: those of the trials that have a score, by their folders.
        scores: one a trial; None of one that failed.
    """

    fixed: list[str]
    space: Space
    proposals: Proposals
    waiting: list[tuple[Any, Mapping[str, float]]] = field(default_factory=list)
    jobs: dict[Path, PlannedJob] = field(default_factory=dict)
    scores: list[float | None] = field(default_factory=list)

    def draw(self, count: int) -> None:
        """Ask for trials, until so many wait."""
        while len(self.waiting) < count and (drawn := self.proposals.ask()) is not None:
            self.waiting.append(drawn)

    def overrides(self, values: Mapping[str, float]) -> list[str]:
        """Those of a trial's job."""
        return on_dev([*self.fixed, *self.space.overrides(values)])

    def run(self, sweep: Sweep, search: Search) -> None:
        """Run all trials, some of them at a time."""
        while len(self.scores) < search.n_trials:
            self.draw(min(search.n_jobs, search.n_trials - len(self.scores)))
            if not self.waiting:
                return
            plan = sweep.run(dict.fromkeys(tuple(self.overrides(values)) for _, values in self.waiting))
            planned = {tuple(job.overrides): job for job in plan.jobs}
            for trial, values in self.waiting:
                job = planned.get(tuple(self.overrides(values)))
                score = None if job is None else score_of(job)
                self.proposals.tell(trial, score)
                self.scores.append(score)
                if job is not None and score is not None:
                    self.jobs.setdefault(job.folder, job)
                self._tell(values, search)
            self.waiting = []

    def how(self, search: Search) -> dict[str, str | int]:
        """What the record of the choice says of the search."""
        failed = sum(score is None for score in self.scores)
        return {"sampler": search.sampler, "seed": search.seed, "trials": len(self.scores), "failed": failed}

    def _tell(self, values: Mapping[str, float], search: Search) -> None:
        shown = " ".join(self.space.overrides(values))
        known = [score for score in self.scores if score is not None]
        score = "failed" if self.scores[-1] is None else f"{self.scores[-1]:.2f} on dev"
        best = f", best so far {max(known):.2f}" if known else ""
        log.info("trial %d of at most %d: %s: %s%s", len(self.scores), search.n_trials, shown, score, best)


def run_search(
    params: Mapping[str, Any],
    own_grids: Iterable[Mapping[str, Any]],
    arguments: Sequence[str],
    launch: Launch,
    output_dir: Path,
    search: Search,
    last: str = STAGES[-1],
) -> list[JobReturn]:
    """Run searches: one of each combination of members, seeds, methods and whatever else has several values.

    Args:
        params: parameters by key, as of a sweep.
        own_grids: sets of parameters, each of searches of its own.
        arguments: overrides of the command line.
        launch: the launcher.
        output_dir: where records of the jobs are left.
        search: how trials are drawn.
        last: the last stage that is run.

    Returns:
        What the launcher returned of each job that it ran.

    Raises:
        SweepError: with everything that is wrong, before any work.
        SystemExit: with status 1 when a job has failed.
    """
    parser = OverridesParser.create(config_loader=config_loader())
    searches = searches_of(search, grids(params, own_grids, parser.parse_overrides(list(arguments))))
    sweep = Sweep(launch, output_dir, last)
    if problems := split_problems(sweep.plan(one.overrides(one.waiting[0][1]) for one in searches)):
        raise SweepError("\n".join(problems))
    early = last if last != STAGES[-1] else STAGES[1]
    plan = sweep.run([one.overrides(values) for one in searches for _, values in one.waiting], early)
    if last != STAGES[-1]:
        return sweep.end()
    lost = {tuple(job.overrides) for job in plan.jobs if problems_of(job)}
    lost |= {tuple(overrides) for overrides, _ in plan.refused}
    groups = []
    for one in searches:
        if any(tuple(one.overrides(values)) in lost for _, values in one.waiting):
            continue  # which was told
        one.run(sweep, search)
        if one.jobs:
            groups.append(Group(list(one.jobs.values()), one.fixed, one.how(search)))
        else:
            log.error("nothing is chosen, since no trial has a result: %s", " ".join(one.fixed))
    if search.select is not None:
        sweep.run_best(groups)
    return sweep.end()


def searches_of(search: Search, found: Sequence[Grid]) -> list[RunningSearch]:
    """All searches of some grids, with their first trials drawn.

    Raises:
        SweepError: with everything that is wrong with them.
    """
    if problems := search_problems(search, found):
        raise SweepError("\n".join(problems))
    searches = []
    for grid in found:
        space, others = space_of(grid)
        for fixed in dict.fromkeys(itertools.product(*(values_of(parameter) for parameter in others))):
            searches.append(RunningSearch(list(fixed), space, proposals(search, space)))
            searches[-1].draw(min(search.n_jobs, search.n_trials))
    return searches


def split_problems(plan: Plan) -> list[str]:
    """Members whose suites have no dev split, or whose dev split cannot be read."""
    found: dict[str, None] = {}
    for job in plan.jobs:
        suite, members = job.settings.suite, job.settings.members
        if suite.missing(job.settings.corpora):
            continue  # which is told with all that is missing, or fetched first
        suite.prepare(job.settings.corpora)
        for member in members:
            try:
                if not any(evaluation.examples for evaluation in evaluations_for(suite, [member], "dev")):
                    found[f"suite={suite.name}: {member} has an empty dev split, by which a search chooses"] = None
            except DataError as error:
                found[f"suite={suite.name}: {member} has no dev split, by which a search chooses: {error}"] = None
    return list(found)


def score_of(job: PlannedJob) -> float | None:
    """The dev score of a trial that was run; None if it failed, or its score is no number."""
    if job.failed or problems_of(job):
        return None
    try:
        score = read_result(job.folder / RESULT_FILE).mean_in_domain
    except ResultError:
        return None
    return score if math.isfinite(score) else None

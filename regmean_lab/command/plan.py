"""``plan=true``: what a command would do, before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from regmean_lab.config.grids import composing, grids_of, jobs_of, selects
from regmean_lab.config.search import Search, search_of_command

if TYPE_CHECKING:
    from regmean_lab.sweeps.plan import Plan

PLAN_KEY = "plan"
PLAN_OVERRIDE = f"{PLAN_KEY}=true"

MANY_JOBS = 50
"""Of so many jobs a plan takes long enough that one wonders."""


def wants_plan(arguments: Sequence[str]) -> bool:
    """Whether the overrides of a command line ask for a plan."""
    given = [argument.partition("=")[2] for argument in arguments if argument.partition("=")[0] == PLAN_KEY]
    return bool(given) and given[-1].strip().lower() in ("true", "yes", "on", "1")


def show_plan(arguments: Sequence[str]) -> bool:
    """Print what a command line that can be composed would do.

    Args:
        arguments: its overrides.

    Returns:
        Whether all that it needs is there.
    """
    from regmean_lab.sweeps.estimate import estimate
    from regmean_lab.sweeps.plan import make_plan
    from regmean_lab.sweeps.plan_text import plan_text
    from regmean_lab.sweeps.selection import first_jobs, groups_of
    from regmean_lab.sweeps.stages import composed  # the libraries behind these take seconds to import
    from regmean_lab.sweeps.summary import JobRecord

    refused: list[JobRecord] = []
    with composing():
        if (search := search_of_command(arguments)) is not None:
            plan = _plan_of_search(search, arguments)
        else:
            jobs = jobs_of(grids_of(arguments))
            if len(jobs) >= MANY_JOBS:
                print(f"Composing {len(jobs)} jobs, to see what each needs …", file=sys.stderr, flush=True)
            plan = make_plan(composed(jobs, refused))
        if search is None and selects(arguments):
            chosen = sum(len(group) > 1 for group in groups_of(plan.jobs))
            plan = make_plan(composed([*first_jobs(plan.jobs), *(list(job) for job, _ in plan.refused)], refused))
            plan.notes.append(f"then the best of each of {chosen} groups of settings is run on test")
    plan.problems += [f"{' '.join(record.overrides)}: {record.error}" for record in refused]
    print(plan_text(plan, estimate(plan) if plan.unfinished else None))
    return not plan.problems


def _plan_of_search(search: Search, arguments: Sequence[str]) -> Plan:
    """The plan of the first trial of each search; all others are like it."""
    from regmean_lab.sweeps.plan import make_plan
    from regmean_lab.sweeps.search import searches_of
    from regmean_lab.sweeps.stages import composed

    searches = searches_of(search, grids_of(arguments))
    plan = make_plan(composed((one.overrides(one.waiting[0][1]) for one in searches), []))
    largest = max(one.space.size or search.n_trials for one in searches)
    plan.trials = min(search.n_trials, largest) if search.sampler == "grid" else search.n_trials
    keys = {part.key.partition(".")[0] for one in searches for part in one.space.dimensions}
    plan.repeated = frozenset({"train"} if "training" in keys else set()) | ({"statistics"} & keys)
    searched = dict.fromkeys(part.key for one in searches for part in one.space.dimensions)
    plan.notes.append(f"searched by {search.sampler}, seed {search.seed}: {', '.join(searched)}")
    if plan.repeated:
        plan.notes.append("each trial has settings of training or statistics of its own, and trains or collects anew")
    if search.select is not None:
        plan.notes.append("then the best trial of each search is run on test")
    return plan

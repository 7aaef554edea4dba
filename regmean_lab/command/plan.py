"""``plan=true``: what a command would do, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from regmean_lab.config.grids import composing, grids_of, jobs_of, selects

PLAN_KEY = "plan"
PLAN_OVERRIDE = f"{PLAN_KEY}=true"


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
        plan = make_plan(composed(jobs_of(grids_of(arguments)), refused))
        if selects(arguments):
            chosen = sum(len(group) > 1 for group in groups_of(plan.jobs))
            plan = make_plan(composed([*first_jobs(plan.jobs), *(list(job) for job, _ in plan.refused)], refused))
            plan.notes.append(f"then the best of each of {chosen} groups of settings is run on test")
    plan.problems += [f"{' '.join(record.overrides)}: {record.error}" for record in refused]
    print(plan_text(plan, estimate(plan) if plan.unfinished else None))
    return not plan.problems

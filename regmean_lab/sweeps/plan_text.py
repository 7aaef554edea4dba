"""A plan as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from regmean_lab.config.baselines import comparator_types
from regmean_lab.sweeps.estimate import Cost, Estimate
from regmean_lab.sweeps.plan import Plan
from regmean_lab.utils.errors import together
from regmean_lab.utils.quantities import byte_size, counted, duration

UNKNOWN_TIME = (
    "  Unknown are times of what lacks data or pretrained weights, see below: with these, plan=true estimates them "
    "from the model's size,\n  and once the first member is trained, from how long it took here."
)
"""Why a time is unknown, and what to do."""

LISTED = 12
"""At most this many names of a kind are listed; of more, only the number."""


def plan_text(plan: Plan, costs: Estimate | None) -> str:
    """A plan in lines: jobs, members, statistics, merges and evaluations, with disk and time, and what is missing.

    Args:
        plan: the plan.
        costs: what it will cost; None where that was not estimated.
    """
    finished = len(plan.jobs) - len(plan.unfinished)
    methods = Counter(job.settings.method.name for job in plan.unfinished)
    compared = {name: count for name, count in methods.items() if name in comparator_types()}
    merged = {name: count for name, count in methods.items() if name not in compared}
    lines = [f"{counted(len(plan.jobs), 'job')}: {finished} finished, {len(plan.unfinished)} to do"]
    if plan.unsuitable:
        lines = ["This cannot run:", *(f"  - {problem}" for problem in together(plan.unsuitable)), "", *lines]
    if plan.trials > 1:
        lines[-1] = f"{len(plan.jobs)} search{'' if len(plan.jobs) == 1 else 'es'} of {plan.trials} trials each, on dev"
    to_train, to_collect = plan.to_train, plan.to_collect
    to_bring = sum(member.given is not None for member in to_train)
    lines.append(
        f"  members     {len(plan.members) - len(to_train)} found in the zoo, {len(to_train) - to_bring} to train"
        + (f", {counted(to_bring, 'checkpoint')} to put there" if to_bring else "")
        + _cost(costs.training if costs and to_train else None)
    )
    lines += _names([_member_name(plan, number) for number in range(len(to_train))])
    lines.append(
        f"  statistics  {len(plan.statistics) - len(to_collect)} found, {len(to_collect)} to collect"
        + _counts(Counter(part.kind for part in to_collect))
        + _cost(costs.statistics if costs and to_collect else None)
    )
    every = {name: count * plan.trials for name, count in merged.items()}
    lines.append(f"  merges      {sum(every.values())}" + _counts(every))
    lines.append(f"  comparisons {sum(compared.values())}" + _counts(compared))
    cost = costs.evaluation if costs and plan.unfinished else None
    lines.append(f"  evaluations {len(plan.unfinished) * plan.trials}" + _cost(cost))
    if costs is not None and plan.unfinished:
        lines.append(f"  altogether{_cost(costs.total, separator=' ')}")
        lines.append("  Times are estimates for one job after the other on this machine.")
        if costs.total.seconds is None:
            lines.append(UNKNOWN_TIME)
    lines += [f"  note: {note}" for note in plan.notes]
    if problems := together(problem for problem in plan.problems if problem not in plan.unsuitable):
        lines.append(f"\nMissing or wrong, {counted(len(problems), 'thing')}:")
        lines += [f"  - {problem}" for problem in problems]
    return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    """What a number is made of, in brackets."""
    return f" ({', '.join(f'{count} {name}' for name, count in sorted(counts.items()))})" if counts else ""


def _cost(cost: Cost | None, separator: str = ": ") -> str:
    if cost is None:
        return ""
    time = "time unknown" if cost.seconds is None else f"about {duration(cost.seconds)}"
    size = "disk unknown" if cost.bytes is None else (f"{byte_size(cost.bytes)} of disk" if cost.bytes else "")
    return separator + ", ".join(part for part in (time, size) if part)


def _member_name(plan: Plan, number: int) -> str:
    member = plan.to_train[number]
    corpora, model = "+".join(member.training.corpora), member.settings.config.model.name
    made = f"seed {member.training.seed}" if member.given is None else member.given.reference
    return f"{member.settings.suite.name} {corpora}, {model}, {made}"


def _names(names: list[str]) -> list[str]:
    shown = [f"              {name}" for name in names[:LISTED]]
    return shown + ([f"              … and {len(names) - LISTED} more"] if len(names) > LISTED else [])

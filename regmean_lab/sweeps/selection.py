"""``hydra.sweeper.select=best``: of jobs that differ in settings alone, the one with the best score on dev."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from regmean_lab.config.schema import Settings
from regmean_lab.config.search import SELECTION_KEY, SPLIT_KEY
from regmean_lab.results import RESULT_FILE, ResultError, read_result
from regmean_lab.sweeps.plan import PlannedJob
from regmean_lab.sweeps.steps import quoted

BY = "mean_in_domain"


@dataclass(frozen=True)
class Candidate:
    """One job of a group.

    Attributes:
        overrides: those of the job as the user gave it.
        settings: the overrides that not all jobs of the group have.
        score: its mean score in domain on dev.
    """

    overrides: Sequence[str]
    settings: Sequence[str]
    score: float


@dataclass(frozen=True)
class Group:
    """Jobs that were run on dev, the best of which is run on test.

    Attributes:
        jobs: the jobs.
        fixed: the overrides that are no settings to choose among; None are those that all jobs have.
        how: how a search has drawn the jobs: ``sampler``, ``seed``, ``trials`` and ``failed``; empty without one.
    """

    jobs: Sequence[PlannedJob]
    fixed: Sequence[str] | None = None
    how: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The best of a group.

    Attributes:
        best: the candidate with the highest score, of equal ones the first.
        among: all candidates.
        how: how a search has drawn them.
    """

    best: Candidate
    among: Sequence[Candidate]
    how: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What was chosen, in a line."""
        chosen = " ".join(self.best.settings)
        drawn = f", drawn by {self.how['sampler']}" if self.how else ""
        return f"{chosen} has the best of {len(self.among)} mean scores on dev{drawn}: {self.best.score:.2f}"

    def overrides(self) -> list[str]:
        """What runs the chosen job on test, with the record of how it was chosen."""
        keys = dict.fromkeys(text.partition("=")[0] for one in self.among for text in one.settings)
        among = ",".join(f"{{settings: {_text(one)}, score: {one.score!r}}}" for one in self.among)
        how = "".join(f", {key}: {said}" for key, said in self.how.items())
        record = (
            f"{{on: dev, by: {BY}, keys: [{','.join(map(quoted, keys))}], chosen: {_text(self.best)}, "
            f"score: {self.best.score!r}, among: [{among}]{how}}}"
        )
        return [*self.best.overrides, f"{SPLIT_KEY}=test", f"{SELECTION_KEY}={record}"]


def on_dev(overrides: Sequence[str]) -> list[str]:
    """The overrides of a job that is evaluated on dev."""
    return [*overrides, f"{SPLIT_KEY}=dev"]


def first_jobs(jobs: Sequence[PlannedJob]) -> list[list[str]]:
    """The overrides of what is run before anything is chosen: groups of several on dev, all others as they are."""
    return [
        on_dev(job.overrides) if len(group) > 1 else list(job.overrides) for group in groups_of(jobs) for job in group
    ]


def groups_of(jobs: Iterable[PlannedJob]) -> list[list[PlannedJob]]:
    """Jobs that differ in nothing but settings of method, training and statistics, together.

    Jobs of other members, seeds, suites, models or methods are compared by a report; there is nothing to choose.
    """
    groups: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        groups.setdefault(_identity(job.settings), []).append(job)
    return list(groups.values())


def best_of(group: Group) -> Selection:
    """The job of a group with the highest mean score in domain.

    Raises:
        ResultError: when a job of the group has no result, so that the best is not known.
    """
    plain = [[text for text in job.overrides if text != f"{SPLIT_KEY}=dev"] for job in group.jobs]
    shared = set.intersection(*map(set, plain)) if group.fixed is None else set(group.fixed)
    candidates = []
    for job, overrides in zip(group.jobs, plain, strict=True):
        if job.failed:  # what lies in its folder is of an earlier run, on other data
            raise ResultError(f"{job.folder}: the job has failed")
        settings = [text for text in overrides if text not in shared]
        candidates.append(Candidate(overrides, settings, read_result(job.folder / RESULT_FILE).mean_in_domain))
    return Selection(max(candidates, key=lambda one: one.score), candidates, group.how)


def _identity(settings: Settings) -> str:
    config = settings.config
    fixed = (config.experiment, settings.suite_name, settings.suite.settings, config.model, settings.method.name)
    return repr((*fixed, settings.members, config.order, config.first, config.seed, config.head_init))


def _text(candidate: Candidate) -> str:
    return quoted(" ".join(candidate.settings))

"""A plan: what the jobs of a sweep need, what is available, and what is missing. Nothing is trained or fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from regmean_lab.callbacks.requests import StatisticsRequest
from regmean_lab.checkpoints.checks import find_given
from regmean_lab.config.baselines import Multitask
from regmean_lab.config.resolvers import job_folder
from regmean_lab.config.schema import ConfigurationError, Settings, settings_of
from regmean_lab.evaluation.checks import find_files
from regmean_lab.evaluation.finished import data_fingerprint, finished_result, model_fingerprint
from regmean_lab.merging import Layout, MergeMethod
from regmean_lab.merging.layout import averaged_line
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.suites import Suite
from regmean_lab.suites.base import DataError
from regmean_lab.suites.evaluations import evaluations_for
from regmean_lab.sweeps.steps import Step, empty_layout, requests_for
from regmean_lab.training.descriptions import MemberTraining, describe, trainings_of
from regmean_lab.zoo import Zoo, ZooEntry, member_address

if TYPE_CHECKING:
    from regmean_lab.checkpoints.given_members import GivenMember


@dataclass(eq=False)
class PlannedMember:
    """A model that some of the jobs need.

    Attributes:
        training: what it is trained on, and how.
        job: the first job that needs it.
        checkpoint: what it starts from; None if that is not here.
        entry: its entry in the zoo; None if it has to be trained, or brought there.
        problem: why it cannot be trained, or None; set while a sweep runs.
        given: the checkpoint that it is; None of a model that is trained.
    """

    training: MemberTraining
    job: PlannedJob
    checkpoint: Checkpoint | None
    entry: ZooEntry | None
    problem: str | None = None
    given: GivenMember | None = None

    @property
    def settings(self) -> Settings:
        """Those of the first job that needs it."""
        return self.job.settings

    @property
    def step(self) -> Step:
        """What trains it."""
        return Step(self.training.name)


@dataclass(eq=False)
class PlannedStatistics:
    """Statistics of one member that some of the jobs need.

    Attributes:
        member: the member.
        kind: ``gram`` or ``fisher``.
        examples: from how many training examples they are collected; None is all.
        job: the first job that needs them.
        found: whether they are there.
        problem: why they cannot be collected, or None; set while a sweep runs.
    """

    member: PlannedMember
    kind: str
    examples: int | None
    job: PlannedJob
    found: bool
    problem: str | None = None

    @property
    def step(self) -> Step:
        """What collects them."""
        return Step(self.member.training.name, self.kind)


@dataclass(eq=False)
class PlannedJob:
    """One job of the sweep.

    Attributes:
        overrides: what makes its configuration.
        folder: where it writes.
        settings: its checked configuration.
        finished: whether its result is there.
        members: the models that it needs.
        statistics: the statistics that it needs; those of a greedy order are known when its members are there.
        failed: whether it has failed; set while a sweep runs.
    """

    overrides: Sequence[str]
    folder: Path
    settings: Settings
    finished: bool
    members: list[PlannedMember] = field(default_factory=list)
    statistics: list[PlannedStatistics] = field(default_factory=list)
    failed: bool = False

    @property
    def folder_name(self) -> str:
        """Its folder below the output folder."""
        return self.folder.relative_to(self.settings.config.paths.output_dir).as_posix()


@dataclass
class Plan:
    """What a sweep will do.

    Attributes:
        jobs: all jobs whose configuration is sound.
        members: every model that unfinished jobs need, once.
        statistics: every statistics that unfinished jobs need, once.
        problems: what is wrong with configurations, and what is missing: data, weights, packages.
        unsuitable: those of the problems that no data or weights would mend: a model that a suite has no use for.
        refused: jobs whose configuration is not sound: overrides and what is wrong.
        notes: what a user should know beforehand, a line each.
        trials: how many jobs like each of these there will be, which differ in settings that a search draws.
        repeated: what is done in each of them: ``train`` and ``statistics``, where a search draws settings of these.
    """

    jobs: list[PlannedJob] = field(default_factory=list)
    members: list[PlannedMember] = field(default_factory=list)
    statistics: list[PlannedStatistics] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unsuitable: list[str] = field(default_factory=list)
    refused: list[tuple[Sequence[str], str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trials: int = 1
    repeated: frozenset[str] = frozenset()

    @property
    def unfinished(self) -> list[PlannedJob]:
        """Jobs whose result is not there yet."""
        return [job for job in self.jobs if not job.finished]

    @property
    def to_train(self) -> list[PlannedMember]:
        """Models that are not in the zoo, those that only have to be brought there included."""
        return [member for member in self.members if member.entry is None]

    @property
    def to_collect(self) -> list[PlannedStatistics]:
        """Statistics that are not beside their members."""
        return [statistics for statistics in self.statistics if not statistics.found]


def make_plan(jobs: Iterable[tuple[Sequence[str], DictConfig]]) -> Plan:
    """Find out what jobs need and what of it is there.

    Args:
        jobs: overrides and composed configuration of each.
    """
    return Planner().plan(jobs)


class Planner:
    """Makes plans job by job; what many jobs share is looked up once, for all plans what no job changes."""

    def __init__(self) -> None:
        self._suites: dict[str, Suite] = {}
        self._fingerprints: dict[tuple[int, str], str] = {}
        self._found: dict[str, tuple[Checkpoint | None, dict[str, GivenMember], list[str]]] = {}
        self._models: dict[str, list[str]] = {}
        self._layouts: dict[str, Layout] = {}
        self._begin()

    def _begin(self) -> None:
        self._plan = Plan()
        self._problems: dict[str, None] = {}
        self._zoos: dict[Path, dict[str, ZooEntry]] = {}
        self._members: dict[str, PlannedMember] = {}
        self._statistics: dict[tuple[int, str], PlannedStatistics] = {}

    def plan(self, jobs: Iterable[tuple[Sequence[str], DictConfig]]) -> Plan:
        """The plan of some jobs, see `make_plan`."""
        self._begin()
        for overrides, config in jobs:
            self._add(overrides, config)
        return self._plan

    def _add(self, overrides: Sequence[str], config: DictConfig) -> None:
        """Add one job."""
        try:
            settings = self._with_shared_suite(settings_of(config))
        except ConfigurationError as error:
            self._report(error.problems)
            self._plan.refused.append((overrides, str(error)))
            return
        checkpoint, given = self._files(settings)
        folder = Path(settings.config.paths.output_dir) / job_folder(config)
        job = PlannedJob(overrides, folder, settings, self._is_finished(settings, checkpoint, folder, given))
        self._plan.jobs.append(job)
        if job.finished:
            return
        if checkpoint is not None:
            unsuitable = self._model_problems(settings, checkpoint)
            self._report(unsuitable)
            self._plan.unsuitable += [problem for problem in unsuitable if problem not in self._plan.unsuitable]
        job.members = [
            self._member(job, checkpoint, training, given.get(training.name)) for training in trainings_of(settings)
        ]
        method = settings.method
        if isinstance(method, MergeMethod):
            self._plan.notes += [note for note in method.notes if note not in self._plan.notes]
        if isinstance(method, MergeMethod) and settings.config.order == "given":
            layout = self._layout(method, checkpoint)
            if layout is not None:
                self._note_averaged(method, layout, settings.config.model.name)
            requests = requests_for(settings, layout)
            job.statistics = [self._collected(job, member, request) for request in requests for member in job.members]

    def _layout(self, method: MergeMethod, checkpoint: Checkpoint | None) -> Layout | None:
        """The layout of a model, where a method looks at it."""
        if checkpoint is None or not method.by_layer:
            return None
        if checkpoint.fingerprint not in self._layouts:
            self._layouts[checkpoint.fingerprint] = empty_layout(checkpoint)
        return self._layouts[checkpoint.fingerprint]

    def _note_averaged(self, method: MergeMethod, layout: Layout, name: str) -> None:
        """Note which matrices of a model a method averages."""
        names = [*layout.stacked, *layout.other_maps]
        line = averaged_line(method.averaged_maps(set(names) - method.kept(names), layout), method.name)
        if line is not None and (note := f"{name}: {line}") not in self._plan.notes:
            self._plan.notes.append(note)

    def _report(self, problems: Iterable[str]) -> None:
        for problem in problems:
            if problem not in self._problems:
                self._problems[problem] = None
                self._plan.problems.append(problem)

    def _with_shared_suite(self, settings: Settings) -> Settings:
        key = repr((settings.suite.name, settings.suite.data_dir, settings.suite.settings))
        return replace(settings, suite=self._suites.setdefault(key, settings.suite))

    def _files(self, settings: Settings) -> tuple[Checkpoint | None, dict[str, GivenMember]]:
        """The pretrained model, and the members that are checkpoints."""
        config = settings.config
        joint = isinstance(settings.method, Multitask)
        given = sorted(settings.checkpoints.items())
        own = (config.model, config.paths, config.logger, config.trainer)
        key = repr((*own, id(settings.suite), settings.members, given, joint))
        if key not in self._found:
            checkpoint, problems = find_files(settings)
            members, others = find_given(settings, checkpoint)
            # Without data there may still be a model, whose size tells what its members will take.
            self._found[key] = checkpoint, members, [*problems, *others]
        checkpoint, members, problems = self._found[key]
        self._report(problems)
        return checkpoint, members

    def _model_problems(self, settings: Settings, checkpoint: Checkpoint) -> list[str]:
        """Why the pretrained model does not do for a job that is to be run."""
        from regmean_lab.evaluation.model_checks import model_problems  # transformers; a finished job needs none

        patterns = ("parts", "keep_layers", "merge_layers", "text")
        named = [getattr(settings.method, name, None) for name in patterns]
        own = (checkpoint, settings.config.training.lora, named, sorted(settings.checkpoints))
        key = repr((*own, id(settings.suite), settings.members))
        if key not in self._models:
            self._models[key] = model_problems(settings, checkpoint)
        return self._models[key]

    def _fingerprint(self, suite: Suite, corpus: str) -> str | None:
        """Hash of a corpus's data; None if it is not there yet."""
        key = (id(suite), corpus)
        if key not in self._fingerprints:
            try:
                self._fingerprints[key] = suite.fingerprint(corpus)
            except (DataError, OSError):
                return None
        return self._fingerprints[key]

    def _is_finished(
        self, settings: Settings, checkpoint: Checkpoint | None, folder: Path, given: Mapping[str, GivenMember]
    ) -> bool:
        if checkpoint is None or not folder.is_dir():
            return False
        corpora = {corpus: self._fingerprint(settings.suite, corpus) for corpus in settings.corpora}
        known = {corpus: found for corpus, found in corpora.items() if found is not None}
        if len(known) < len(corpora):
            return False
        models = model_fingerprint(checkpoint, {name: member.record for name, member in given.items()})
        evaluations = partial(evaluations_for, settings.suite, settings.members, settings.evaluated_split)
        try:
            data = data_fingerprint(settings, known.__getitem__)
            return finished_result(settings, models, data, folder, evaluations) is not None
        except (DataError, OSError):
            return False

    def _member(
        self, job: PlannedJob, checkpoint: Checkpoint | None, training: MemberTraining, given: GivenMember | None
    ) -> PlannedMember:
        settings = job.settings
        how = training if given is None else (training.name, given.checked.model.fingerprint)
        key = repr((settings.config.model, id(settings.suite), settings.config.paths.zoo_dir, how))
        if key not in self._members:
            entry = None
            known = all(self._fingerprint(settings.suite, corpus) is not None for corpus in training.corpora)
            if checkpoint is not None and known:
                if given is not None:
                    description = given.describe(settings, checkpoint)
                else:
                    description = describe(
                        checkpoint, settings.suite, training.corpora, training.training, training.seed
                    )
                entry = self._zoo(Path(settings.config.paths.zoo_dir)).get(member_address(description))
            self._members[key] = PlannedMember(training, job, checkpoint, entry, given=given)
            if given is not None:
                self._plan.notes += given.notes(entry is not None)
            self._plan.members.append(self._members[key])
        return self._members[key]

    def _zoo(self, root: Path) -> dict[str, ZooEntry]:
        if root not in self._zoos:
            self._zoos[root] = {entry.address: entry for entry in Zoo(root).entries()}
        return self._zoos[root]

    def _collected(self, job: PlannedJob, member: PlannedMember, request: StatisticsRequest) -> PlannedStatistics:
        key = (id(member), repr(request))
        if key not in self._statistics:
            found = False
            if member.entry is not None:
                fingerprint = self._fingerprint(job.settings.suite, member.training.name)
                assert fingerprint is not None  # it is part of the entry's address
                found = request.find(member.entry, fingerprint) is not None
            if not found and member.given is not None:
                found = member.given.brings(request)
            self._statistics[key] = PlannedStatistics(member, request.kind, request.examples, job, found)
            self._plan.statistics.append(self._statistics[key])
        return self._statistics[key]

"""A job that is ready to run, and what evaluating it gives."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from regmean_lab.config.schema import ConfigurationError, Settings
from regmean_lab.evaluation.finished import data_fingerprint, model_fingerprint
from regmean_lab.evaluation.label_spaces import label_differences
from regmean_lab.models.pretrained import Checkpoint, shared_tokenizer
from regmean_lab.modules import TaskModule
from regmean_lab.suites.base import DataError
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.evaluations import Evaluation, evaluations_for
from regmean_lab.suites.text_encoding import template_problem
from regmean_lab.zoo import ZooEntry


@dataclass
class Outcome:
    """What evaluating a method gave: scores by domain, all metrics, and the model, where there is a single one.

    ``divergence`` is what :meth:`regmean_lab.evaluation.divergences.Divergences.of` gives, of a merge; ``choice`` what
    :meth:`regmean_lab.merging.choice.Choice.record` gives, of one that was chosen; ``statistics_bytes`` how large the
    statistics are that a merge read, by kind.
    """

    scores: dict[str, dict[str, float]]
    metrics: dict[str, Any]
    module: TaskModule | None = None
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    divergence: dict[str, Any] | None = None
    choice: dict[str, Any] | None = None
    statistics_bytes: dict[str, int] | None = None


@dataclass
class Job:
    """A job that is ready to run: settings checked, data and model found.

    Attributes:
        settings: the checked configuration.
        checkpoint: the pretrained model.
        evaluations: what is evaluated, in-domain corpora first.
        data_fingerprint: hash of all data.
        folder: where the job writes.
        seconds: time spent on each stage.
        entries: members from the zoo, filled as they are found or trained.
        checkpoints: of members that are checkpoints, by corpus, where they are from; ``fingerprint`` identifies one.
    """

    settings: Settings
    checkpoint: Checkpoint
    evaluations: list[Evaluation]
    data_fingerprint: str
    folder: Path
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("train", "statistics", "merge", "evaluate"), 0.0)
    )
    entries: dict[str, ZooEntry] = field(default_factory=dict)
    checkpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        settings: Settings,
        checkpoint: Checkpoint,
        folder: Path,
        checkpoints: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Job:
        """Bring and read the data of a job.

        Raises:
            DataError: for data that cannot be brought or read.
            ConfigurationError: for members whose labels do not go together.
        """
        suite = settings.suite
        suite.prepare(settings.corpora)
        if different := label_differences(settings, checkpoint):
            raise ConfigurationError(different)
        data = data_fingerprint(settings, suite.fingerprint)
        evaluations = evaluations_for(suite, settings.members, settings.evaluated_split)
        texts = chain.from_iterable(evaluation.examples for evaluation in evaluations)
        if (problem := template_problem(texts, partial(shared_tokenizer, checkpoint))) is not None:
            raise DataError(problem)
        return cls(settings, checkpoint, evaluations, data, folder, checkpoints=checkpoints or {})

    @property
    def model_fingerprint(self) -> str:
        """What identifies the weights that the job starts from."""
        return model_fingerprint(self.checkpoint, self.checkpoints)

    def of_members(self, members: Sequence[str]) -> Job:
        """The same job of some of its members, in another order; which corpora are out of domain follows from it."""
        chosen = {name: record for name, record in self.checkpoints.items() if name in members}
        job = Job.open(replace(self.settings, members=tuple(members)), self.checkpoint, self.folder, chosen)
        job.seconds = self.seconds
        return job

    def data_module(self, more: Sequence[Evaluation] = ()) -> CorpusDataModule:
        """Loaders over the job's data: of its evaluations, and after them of more."""
        config = self.settings.config
        return CorpusDataModule(
            self.settings.suite,
            shared_tokenizer(self.checkpoint),
            batch_size=config.training.batch_size,
            eval_batch_size=config.training.eval_batch_size,
            max_length=config.training.max_length,
            seed=config.statistics.seed,
            evaluations=[*self.evaluations, *more],
            num_workers=config.trainer.workers,
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

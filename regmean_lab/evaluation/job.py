"""A job that is ready to run, and what evaluating it gives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regmean_lab.config.schema import Settings
from regmean_lab.models.pretrained import Checkpoint, shared_tokenizer
from regmean_lab.modules import TaskModule
from regmean_lab.suites.data_module import CorpusDataModule, Evaluation
from regmean_lab.zoo import Zoo, ZooEntry


@dataclass
class Outcome:
    """What evaluating a method gave: scores by domain, all metrics, and the model, where there is a single one."""

    scores: dict[str, dict[str, float]]
    metrics: dict[str, Any]
    module: TaskModule | None = None
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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

    @property
    def zoo(self) -> Zoo:
        """The zoo that the configuration names."""
        return Zoo(Path(self.settings.config.paths.zoo_dir))

    def data_module(self) -> CorpusDataModule:
        """Loaders over the job's data."""
        config = self.settings.config
        return CorpusDataModule(
            self.settings.suite,
            shared_tokenizer(self.checkpoint),
            batch_size=config.training.batch_size,
            eval_batch_size=config.training.eval_batch_size,
            max_length=config.training.max_length,
            seed=config.statistics.seed,
            evaluations=self.evaluations,
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

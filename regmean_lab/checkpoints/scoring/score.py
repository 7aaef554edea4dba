"""Scoring checkpoints: one ``result.json`` each, which is found again when nothing has changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from regmean_lab.checkpoints.scoring.comparison import compared, comparison_line, right_on
from regmean_lab.checkpoints.scoring.corpora import Corpus
from regmean_lab.checkpoints.scoring.models import ScoredModel
from regmean_lab.checkpoints.scoring.predictions import PREDICTIONS_FILE, predict_all
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.config.method_option import chosen_option
from regmean_lab.evaluation.prediction_files import read_predictions, write_predictions
from regmean_lab.evaluation.scores import Metrics, key_scores
from regmean_lab.metrics.ensemble import ensemble_predictions
from regmean_lab.metrics.metrics import score, score_predictions
from regmean_lab.models.headers import CheckpointError
from regmean_lab.modules import Predictions
from regmean_lab.results import RESULT_FILE, Result, combine_fingerprints, find_result, fingerprint, mean
from regmean_lab.suites.base import DataError
from regmean_lab.suites.evaluations import Evaluation
from regmean_lab.tracking.environment import environment, peak_memory_bytes
from regmean_lab.training.processes import first_device
from regmean_lab.utils.memory import halved, memory_for, other_device

EXPERIMENT, MODEL, ENSEMBLE = "evaluate", "checkpoint", "ensemble"
"""What results of all checkpoints are filed under, so that they stand in one table."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How checkpoints are scored.

    Attributes:
        suite: what is recorded of where the corpora are from: ``name``, and what else tells results apart.
        trainer: device and precision.
        batch_size: examples in a batch.
        max_length: texts are cut to so many tokens; None: to as many as a model is read with by default.
        force: score again what is finished.
        overrides: of the command, for the record.
    """

    suite: Mapping[str, Any]
    trainer: TrainerConfig
    batch_size: int = 32
    max_length: int | None = None
    force: bool = False
    overrides: Sequence[str] = ()


@dataclass
class Scoring:
    """Checkpoints and the corpora that they are scored on, checked to go together.

    Attributes:
        models: the checkpoints.
        corpora: the corpora.
        settings: how.
        evaluations: of each checkpoint by name, the corpora with labels as it numbers them.
        predicted: of each checkpoint by name, its predictions, filled as they are made.
    """

    models: list[ScoredModel]
    corpora: Sequence[Corpus]
    settings: Settings
    evaluations: dict[str, list[Evaluation]]
    predicted: dict[str, dict[str, Predictions]] = field(default_factory=dict)

    @classmethod
    def of(cls, models: Sequence[ScoredModel], corpora: Sequence[Corpus], settings: Settings) -> Scoring:
        """Match the labels of all corpora to the outputs of all checkpoints.

        Raises:
            DataError: with everything that does not go together.
        """
        found: list[str] = []
        by_labels: dict[Any, list[Evaluation]] = {}
        for model in models:
            if model.task in by_labels:
                continue
            evaluations = []
            for corpus in corpora:
                try:
                    evaluations.append(corpus.evaluation(model.task))
                except DataError as error:
                    found.append(f"{model.name}: {error}")
            by_labels[model.task] = evaluations
        if found:
            raise DataError("\n".join(found))
        return cls(list(models), corpora, settings, {model.name: by_labels[model.task] for model in models})

    @property
    def data_fingerprint(self) -> str:
        """Hash of all corpora."""
        return combine_fingerprints(corpus.fingerprint for corpus in self.corpora)

    def score(self, model: ScoredModel, folder: Path, method: Mapping[str, Any] | None = None) -> Result:
        """Score a checkpoint, or find its finished result.

        Args:
            model: one of ``models``.
            folder: where the result is written.
            method: what the result says of how the checkpoint was made, ``name`` first: what tables call it. None: it
                is called by its name, and told from others of this name by its weights.

        Raises:
            CheckpointError: when its files change while they are read.
        """
        option = None if method is None else chosen_option(str(method["name"]))
        method = method_of(model) if method is None else method
        evaluations = self.evaluations[model.name]
        found = self._finished(folder, method, model.fingerprint)
        names = [one.name for one in evaluations]
        kept = None if found is None else read_predictions(folder / PREDICTIONS_FILE, names)
        if found is not None and kept is not None:
            log.info("found the finished result %s", folder / RESULT_FILE)
            self.predicted[model.name] = kept
            return replace(found, method_option=option)
        started = time.perf_counter()
        settings = self.settings
        pl.seed_everything(0, workers=True, verbose=False)
        device, batch_size = str(first_device(settings.trainer.accelerator)), settings.batch_size
        work = f"evaluate {model.name}, on {device} in batches of {batch_size} examples"
        with memory_for(work, [*halved("batch_size", batch_size, "same scores"), *other_device(device)]):
            predicted = predict_all(
                *(model, evaluations, settings.trainer), batch_size=batch_size, max_length=settings.max_length
            )
        if (problem := model.read.change("the scores", "Score it again")) is not None:
            raise CheckpointError([problem])
        self.predicted[model.name] = predicted
        metrics = {
            one.name: score(one.task, predicted[one.name].logits, predicted[one.name].labels) for one in evaluations
        }
        result = self._result(method, evaluations, metrics, model.fingerprint, time.perf_counter() - started)
        result = replace(result, method_option=option)
        write_predictions(folder / PREDICTIONS_FILE, predicted)
        result.write(folder)  # last, and whole or not at all
        return result

    def ensemble(self, models: Sequence[ScoredModel], folder: Path) -> Result:
        """Score the mean of the logits of several checkpoints that were scored, or find the finished result.

        Raises:
            DataError: for checkpoints with other labels than the first one's, taggers that cut sentences elsewhere, and
                language models.
        """
        if models[0].task.kind == "text":
            raise DataError("no ensemble: it combines predictions of labels, and language models write texts")
        identity = combine_fingerprints(model.fingerprint for model in models)
        method = {"name": ENSEMBLE, "vote": "soft", "of": [model.name for model in models]}
        if (found := self._finished(folder, method, identity)) is not None:
            log.info("found the finished result %s", folder / RESULT_FILE)
            return found
        started = time.perf_counter()
        first, metrics = models[0], {}
        for one in self.evaluations[first.name]:
            parts = [self.as_first(first, model, one.name) for model in models]
            together = ensemble_predictions(one.task, "soft", [part.logits for part in parts], parts[0].labels)
            metrics[one.name] = score_predictions(one.task, together, parts[0].labels)
        evaluations = self.evaluations[first.name]
        result = self._result(method, evaluations, metrics, identity, time.perf_counter() - started)
        result.write(folder)
        return result

    def comparisons(self, models: Sequence[ScoredModel]) -> list[str]:
        """Each checkpoint against the first one, example by example, in words; none of numbers."""
        first, lines = models[0], []
        for model in models[1:]:
            for own, other in zip(self.evaluations[model.name], self.evaluations[first.name], strict=True):
                right = right_on(own.task, self.predicted[model.name][own.name])
                reference = right_on(other.task, self.predicted[first.name][own.name])
                if right is not None and reference is not None and right.shape == reference.shape:
                    lines.append(comparison_line(own.name, model.name, first.name, compared(right, reference)))
        return lines

    def as_first(self, first: ScoredModel, model: ScoredModel, corpus: str) -> Predictions:
        """Predictions of a checkpoint that was scored, with its outputs in the order of the first one's.

        Raises:
            DataError: for one with other labels, or that divides the corpus into other tokens.
        """
        reference, own = self.predicted[first.name][corpus], self.predicted[model.name][corpus]
        names, others = first.task.labels, model.task.labels
        if set(names) != set(others):
            raise DataError(f"{model.name} has other labels than {first.name}: neither an ensemble nor a divergence")
        logits = own.logits
        if model.task.kind in ("single_label", "multi_label", "token_labels"):
            logits = logits[..., [others.index(name) for name in names]]
        if logits.shape != reference.logits.shape:
            cuts = f"{model.name} divides {corpus} into other tokens than {first.name}"
            raise DataError(f"{cuts}: neither an ensemble nor a divergence")
        return Predictions(logits, reference.labels)

    def _finished(self, folder: Path, method: Mapping[str, Any], model_fingerprint: str) -> Result | None:
        if self.settings.force:
            return None
        return find_result(folder, self._configuration(method), self.data_fingerprint, model_fingerprint)

    def _configuration(self, method: Mapping[str, Any]) -> dict[str, Any]:
        """What a result records of its settings, in the form in which reports read it."""
        first = next(iter(self.evaluations.values()))
        suite = {**self.settings.suite, "key_scores": [one.task.key_score for one in first]}
        return configuration_of(self.settings, method, suite, [corpus.name for corpus in self.corpora])

    def _result(
        self,
        method: Mapping[str, Any],
        evaluations: Sequence[Evaluation],
        metrics: Metrics,
        model_fingerprint: str,
        seconds: float,
    ) -> Result:
        scores = key_scores(evaluations, metrics)
        configuration = self._configuration(method)
        return checkpoint_result(
            configuration, scores, metrics, self.data_fingerprint, model_fingerprint, seconds, self.settings
        )


def method_of(model: ScoredModel) -> dict[str, Any]:
    """What tables call a checkpoint, and what tells it from others of this name."""
    return {"name": model.name, "weights": model.fingerprint[:10]}


def configuration_of(
    settings: Settings, method: Mapping[str, Any], suite: Mapping[str, Any], members: Sequence[str]
) -> dict[str, Any]:
    """What a checkpoint's result records of its settings, in the form in which reports read it.

    Args:
        settings: how it was scored.
        method: what tables call the checkpoint (``name``), and what tells it from others of this name.
        suite: what of the data tells results apart, ``name`` first.
        members: names of the corpora or tasks.
    """
    return {
        "experiment": EXPERIMENT,
        "suite": dict(suite),
        "model": {"name": MODEL},
        "method": dict(method),
        "training": {"max_length": settings.max_length},
        "trainer": asdict(settings.trainer),
        "members": list(members),
    }


def checkpoint_result(
    configuration: Mapping[str, Any],
    scores: dict[str, dict[str, float]],
    metrics: Metrics,
    data_fingerprint: str,
    model_fingerprint: str,
    seconds: float,
    settings: Settings,
) -> Result:
    """The result of a checkpoint.

    Args:
        configuration: see :func:`configuration_of`.
        scores: the reported score of each corpus or task, ``in_domain``.
        metrics: all of them, by corpus or task.
        data_fingerprint: hash of the data.
        model_fingerprint: of the checkpoint.
        seconds: how long it took.
        settings: how it was scored.
    """
    device, mean_score = first_device(settings.trainer.accelerator), mean(scores["in_domain"].values())
    assert mean_score is not None
    return Result(
        fingerprint=fingerprint(configuration),
        experiment=EXPERIMENT,
        suite=str(configuration["suite"]["name"]),
        model=MODEL,
        method=str(configuration["method"]["name"]),
        members=list(configuration["members"]),
        seed=0,
        head_init="same",
        scores=scores,
        mean_in_domain=mean_score,
        mean_out_of_domain=None,
        metrics=dict(metrics),
        seconds={"train": 0.0, "statistics": 0.0, "merge": 0.0, "evaluate": seconds},
        peak_memory_bytes=peak_memory_bytes(device),
        environment=environment(device, list(settings.overrides)),
        data_fingerprint=data_fingerprint,
        zoo={},
        configuration=dict(configuration),
        model_fingerprint=model_fingerprint,
        unknown_labels={},
    )

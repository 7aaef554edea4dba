"""Testing models with Lightning, and scores from their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from regmean_lab.metrics.metrics import score
from regmean_lab.modules import Predictions, TaskModule, module_type
from regmean_lab.suites.base import Task
from regmean_lab.suites.data_module import Batches
from regmean_lab.suites.evaluations import Evaluation

Metrics = dict[str, dict[str, float]]
"""Metrics (times 100) by name, by corpus."""


def load_module(folder: Path, task: Task) -> TaskModule:
    """A fine-tuned model folder as a module that can be tested."""
    module_class = module_type(task)
    return module_class(module_class.load_model(folder), task)


def predict(trainer: pl.Trainer, module: TaskModule, loaders: Sequence[Batches]) -> list[Predictions]:
    """Run a module over data loaders; predictions of each, in order. A loader that comes twice is run over once."""
    distinct = list(dict.fromkeys(loaders))
    trainer.test(module, dataloaders=distinct, verbose=False)
    predicted = dict(zip(distinct, module.predictions(), strict=True))
    return [predicted[loader] for loader in loaders]


def metrics_of(
    evaluations: Sequence[Evaluation], predicted: Sequence[Predictions], known: Sequence[bool] | None = None
) -> Metrics:
    """All metrics of a model on each evaluation.

    Args:
        evaluations: the data sets.
        predicted: the model's predictions on each.
        known: for ``multi_label``, for each label whether the model was trained on it; None where it knows all.
    """
    return {
        evaluation.name: score(evaluation.task, part.logits, part.labels, known)
        for evaluation, part in zip(evaluations, predicted, strict=True)
    }


def key_scores(evaluations: Sequence[Evaluation], metrics: Metrics) -> dict[str, dict[str, float]]:
    """The key score on each evaluation, as ``scores`` of a result has them."""
    scores: dict[str, dict[str, float]] = {"in_domain": {}, "out_of_domain": {}}
    for evaluation in evaluations:
        domain = "in_domain" if evaluation.domain == "in" else "out_of_domain"
        scores[domain][evaluation.name] = metrics[evaluation.name][evaluation.task.key_score]
    return scores


def mean_metrics(metrics: Sequence[Metrics]) -> Metrics:
    """Mean over several models of every metric on every corpus."""
    return {
        corpus: {name: sum(part[corpus][name] for part in metrics) / len(metrics) for name in metrics[0][corpus]}
        for corpus in metrics[0]
    }

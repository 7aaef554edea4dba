"""Testing models with Lightning, and scores from their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from regmean_lab.evaluation.metrics import score
from regmean_lab.modules import Predictions, TaskModule, module_type
from regmean_lab.processes import trainer_devices
from regmean_lab.schema_groups import TrainerConfig
from regmean_lab.suites.base import Task
from regmean_lab.suites.data_module import Batches, Evaluation

Metrics = dict[str, dict[str, float]]
"""Metrics (times 100) by name, by corpus."""


def load_module(folder: Path, task: Task) -> TaskModule:
    """A fine-tuned model folder as a module that can be tested."""
    module_class = module_type(task)
    return module_class(module_class.load_model(folder), task)


def test_trainer(
    config: TrainerConfig, callbacks: Sequence[pl.Callback] = (), logger: Logger | bool = False
) -> pl.Trainer:
    """A one-device trainer for evaluation and the merge stage (whose statistics need gradients: no inference mode)."""
    return pl.Trainer(
        accelerator=config.accelerator,
        **trainer_devices(config),
        precision=config.precision,  # type: ignore[arg-type]  # any string that Lightning accepts
        deterministic=config.deterministic,
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=config.progress_bar,
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
    )


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


def flatten(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """Nested metrics as one dict with keys joined by ``/``, for loggers."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(value, dict):
            flat.update(flatten(value, name))
        elif value is not None:
            flat[name] = value
    return flat

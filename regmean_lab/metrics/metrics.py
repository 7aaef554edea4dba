"""Metrics of each kind of task, from logits, by torchmetrics.

A kind that is not of whole texts registers its own in a file of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelStatScores,
)
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef

from regmean_lab.suites.base import IGNORED, Task, TaskKind
from regmean_lab.suites.key_scores import NAMED_KINDS, named_metric


@dataclass(frozen=True)
class Scoring:
    """How predictions of one kind of task are made and measured.

    Attributes:
        build: makes the metrics of a task, which take predictions and labels of a batch.
        predict: predictions of a batch from its logits.
        plain: names of metrics that are reported as they are rather than times 100.
    """

    build: Callable[[Task], MetricCollection]
    predict: Callable[[Task, Tensor], Tensor]
    plain: tuple[str, ...] = ()


_SCORINGS: dict[TaskKind, Scoring] = {}


def register_scoring(kind: TaskKind, scoring: Scoring) -> None:
    """Say how predictions of one kind of task are made and measured."""
    _SCORINGS[kind] = scoring


class AnnotatedMacroF1(Metric):
    """Mean F1 over the labels that are annotated in the data; a label without any positive or prediction counts 0.

    Takes predictions of 0 and 1 and targets of 0, 1 and ``IGNORED``, both of shape [examples, labels].
    """

    higher_is_better = True
    full_state_update = False
    annotated: Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.counts = MultilabelStatScores(labels, average=None, ignore_index=IGNORED, validate_args=False)
        self.add_state("annotated", torch.zeros(labels, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count one batch."""
        self.counts.update(predictions, targets)
        self.annotated += (targets != IGNORED).sum(0)

    def compute(self) -> Tensor:
        """Macro-F1 over annotated labels, between 0 and 1; NaN when no label is annotated."""
        true_positive, false_positive, _, false_negative, _ = self.counts.compute().T.float()
        denominator = 2 * true_positive + false_positive + false_negative
        scores = torch.where(denominator > 0, 2 * true_positive / denominator.clamp(min=1), 0.0)
        return scores[self.annotated > 0].mean()

    def reset(self) -> None:
        """Forget all that was counted."""
        super().reset()
        self.counts.reset()


class KeyScore(Metric):
    """A metric of torchmetrics under the name by which the settings choose it.

    Args:
        name: as in :func:`regmean_lab.suites.key_scores.named_metric`; a module's name could not hold its dots.
        metric: the metric.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, name: str, metric: Metric) -> None:
        super().__init__()
        self.name, self.metric = name, metric

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count one batch."""
        self.metric.update(predictions, targets)

    def compute(self) -> dict[str, Tensor]:
        """The value by its name."""
        return {self.name: self.metric.compute()}

    def reset(self) -> None:
        """Forget all that was counted."""
        super().reset()
        self.metric.reset()


class Matthews(MulticlassConfusionMatrix):
    """Matthews correlation for any number of classes (Gorodkin, 2004), between -1 and 1.

    0 where predictions or labels are all of one class; torchmetrics' own reports up to ±1 for a constant prediction of
    two classes.
    """

    def compute(self) -> Tensor:
        """The correlation, a scalar."""
        counts = super().compute().cpu().double()
        labels, predicted, total = counts.sum(1), counts.sum(0), counts.sum()
        covariance = counts.trace() * total - labels @ predicted
        variances = (total**2 - labels @ labels) * (total**2 - predicted @ predicted)
        return (covariance / variances.sqrt() if variances > 0 else torch.zeros(())).float()


def build_metrics(task: Task) -> MetricCollection:
    """All metrics of a task; they take what :func:`predictions` returns, and the labels.

    Raises:
        ValueError: for a key score that is neither one of them nor one of torchmetrics.
    """
    with _quiet_metrics():
        metrics = _SCORINGS[task.kind].build(task)
        if task.kind in NAMED_KINDS and task.key_score and task.key_score not in metrics:
            metric = named_metric(task.key_score, task.kind, len(task.labels))
            metrics.add_metrics({"key_score": KeyScore(task.key_score, metric)})
        return metrics


def predictions(task: Task, logits: Tensor) -> Tensor:
    """What the logits of a batch predict.

    Args:
        task: says how logits become labels.
        logits: shape [examples, labels], floating point; [examples, tokens, labels] for labels of tokens.

    Returns:
        0 or 1 for each label (``multi_label``; shape [examples, labels], int64), the label's id (``single_label``;
        shape [examples], int64; of tokens [examples, tokens]), or the value (``regression``; shape [examples],
        float32).
    """
    return _SCORINGS[task.kind].predict(task, logits)


def without_unknown(task: Task, predicted: Tensor, known: Sequence[bool] | None) -> Tensor:
    """Predictions of ``multi_label`` without the labels that a model was not trained on: these are 0.

    What a model says of such a label comes from values that no training has touched, and is no prediction. Where the
    label is annotated, its F1 is then 0.

    Args:
        task: what is predicted; those of other kinds stay as they are.
        predicted: as :func:`predictions` gives them.
        known: for each label, whether the model was trained on it; None where it knows all.
    """
    if known is None or task.kind != "multi_label":
        return predicted
    return predicted * torch.tensor(list(known), dtype=predicted.dtype, device=predicted.device)


def score(task: Task, logits: Tensor, labels: Tensor, known: Sequence[bool] | None = None) -> dict[str, float]:
    """All metrics of a set of examples, times 100 except for errors; ``known`` as in :func:`without_unknown`."""
    return score_predictions(task, without_unknown(task, predictions(task, logits), known), labels)


def score_predictions(task: Task, predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of predictions as :func:`predictions` gives them, times 100 except for errors."""
    metrics = build_metrics(task)
    with _quiet_metrics():
        metrics.update(predicted, labels)
    return percentages(task, metrics)


def percentages(task: Task, metrics: MetricCollection) -> dict[str, float]:
    """Values of a task's metrics that have seen data, times 100 except for errors; 0 for what is not defined."""
    with _quiet_metrics():
        values = {name: float(value) for name, value in metrics.compute().items()}
    plain = _SCORINGS[task.kind].plain
    return {
        name: value if name in plain else 100 * (0.0 if math.isnan(value) else value) for name, value in values.items()
    }


@contextmanager
def _quiet_metrics() -> Iterator[None]:
    """Without torchmetrics' warnings: that rank correlation keeps all values; that constants have no correlation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _multi_label(task: Task) -> MetricCollection:
    count = len(task.labels)
    accuracy = MultilabelAccuracy(count, average="micro", ignore_index=IGNORED, validate_args=False)
    return MetricCollection({"macro_f1": AnnotatedMacroF1(count), "accuracy": accuracy}, compute_groups=False)


def _predict_multi_label(task: Task, logits: Tensor) -> Tensor:
    values = logits.float().sigmoid() if task.threshold_on == "probability" else logits
    return (values >= task.threshold if task.threshold_inclusive else values > task.threshold).long()


def _single_label(task: Task) -> MetricCollection:
    count = len(task.labels)
    metrics: dict[str, Metric | MetricCollection] = {
        "macro_f1": MulticlassF1Score(count, average="macro"),
        "accuracy": MulticlassAccuracy(count, average="micro"),
        "matthews": Matthews(count),
    }
    if count == 2:
        metrics["binary_f1"] = BinaryF1Score()  # of the second label: what GLUE reports for mrpc and qqp
    return MetricCollection(metrics, compute_groups=False)


def _regression(task: Task) -> MetricCollection:
    return MetricCollection(
        {"pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef(), "mean_squared_error": MeanSquaredError()},
        compute_groups=False,
    )


register_scoring("multi_label", Scoring(_multi_label, _predict_multi_label))
register_scoring("single_label", Scoring(_single_label, lambda task, logits: logits.argmax(-1)))
register_scoring(
    "regression",
    Scoring(_regression, lambda task, logits: logits.float().reshape(-1), plain=("mean_squared_error",)),
)

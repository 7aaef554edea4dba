"""Metrics of each kind of task, from logits, by torchmetrics."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MultilabelAccuracy,
    MultilabelStatScores,
)
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef

from regmean_lab.suites.base import IGNORED, Task

KEY_SCORES = {
    "multi_label": ("macro_f1", "accuracy"),
    "single_label": ("macro_f1", "accuracy", "matthews"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
}
"""Names of the metrics of each kind of task; any but the mean squared error can be a task's key score."""


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


def build_metrics(task: Task) -> MetricCollection:
    """All metrics of a task; they take what :func:`predictions` returns, and the labels."""
    count = len(task.labels)
    if task.kind == "multi_label":
        accuracy = MultilabelAccuracy(count, average="micro", ignore_index=IGNORED, validate_args=False)
        return MetricCollection({"macro_f1": AnnotatedMacroF1(count), "accuracy": accuracy}, compute_groups=False)
    if task.kind == "single_label":
        return MetricCollection(
            {
                "macro_f1": MulticlassF1Score(count, average="macro"),
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "matthews": MulticlassMatthewsCorrCoef(count),
            },
            compute_groups=False,
        )
    return MetricCollection(
        {"pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef(), "mean_squared_error": MeanSquaredError()},
        compute_groups=False,
    )


def predictions(task: Task, logits: Tensor) -> Tensor:
    """What the logits of a batch predict.

    Args:
        task: says how logits become labels.
        logits: shape [examples, labels], floating point.

    Returns:
        0 or 1 for each label (``multi_label``; shape [examples, labels], int64), the label's id (``single_label``;
        shape [examples], int64), or the value (``regression``; shape [examples], float32).
    """
    if task.kind == "multi_label":
        values = logits.float().sigmoid() if task.threshold_on == "probability" else logits
        return (values > task.threshold).long()
    if task.kind == "single_label":
        return logits.argmax(-1)
    return logits.float().reshape(-1)


def score(task: Task, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of a set of examples, each times 100 (the mean squared error as it is)."""
    return score_predictions(task, predictions(task, logits), labels)


def score_predictions(task: Task, predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics of predictions as :func:`predictions` gives them, each times 100 (the mean squared error as it is)."""
    metrics = build_metrics(task)
    metrics.update(predicted, labels)
    return percentages(metrics)


def percentages(metrics: MetricCollection) -> dict[str, float]:
    """Values of metrics that have seen data, each times 100 (the mean squared error as it is)."""
    with warnings.catch_warnings():
        # A constant prediction has no correlation: torchmetrics warns and gives NaN, which we report as 0.
        warnings.simplefilter("ignore")
        values = {name: float(value) for name, value in metrics.compute().items()}
    return {
        name: value if name == "mean_squared_error" else 100 * (value if value == value else 0.0)
        for name, value in values.items()
    }

"""Metrics of yes/no questions about labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

from regmean_lab.metrics.metrics import AnnotatedMacroF1, Scoring, register_scoring
from regmean_lab.suites.base import IGNORED, Task


class AnswerMacroF1(AnnotatedMacroF1):
    """Mean F1 over the labels that are asked about; a label without any yes, right or given, counts 0.

    Takes answers of 0 and 1, shape [questions], and targets of shape [questions, 2]: the right answer, 0 or 1, and the
    label's id. The score is that of multi-label classification with the same decisions.
    """

    def __init__(self, labels: int) -> None:
        super().__init__(labels)
        self.labels = labels

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count one batch: every question as an example of which one label is annotated."""
        right, asked = targets.unbind(1)
        place = torch.nn.functional.one_hot(asked, self.labels).bool()
        super().update(place * predictions[:, None], torch.where(place, right[:, None], IGNORED))


class AnswerAccuracy(BinaryAccuracy):
    """Share of right answers; takes what :class:`AnswerMacroF1` takes."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count one batch."""
        super().update(predictions, targets[:, 0])


def _answers(task: Task) -> MetricCollection:
    return MetricCollection(
        {"macro_f1": AnswerMacroF1(len(task.labels)), "accuracy": AnswerAccuracy()}, compute_groups=False
    )


register_scoring("answers", Scoring(_answers, lambda task, logits: logits.argmax(-1)))

"""Classification and regression of whole texts."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from regmean_lab.modules.base import Batch, TaskModule
from regmean_lab.suites.base import IGNORED


class SequenceClassificationModule(TaskModule):
    """Multi-label classification with ignored labels, single-label classification, or regression of a text.

    The model is one of ``AutoModelForSequenceClassification``. Labels are int64 of shape [batch] (``single_label``),
    int64 of shape [batch, labels] with ``IGNORED`` where not annotated (``multi_label``), or float32 of shape [batch]
    (``regression``).
    """

    def forward(self, batch: Batch) -> Tensor:
        """Logits, shape [batch, labels]."""
        logits: Tensor = self.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy over annotated labels, cross-entropy, or mean squared error: a scalar, float32."""
        logits = logits.float()
        if self.task.kind == "multi_label":
            annotated = labels != IGNORED
            losses = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
            return (losses * annotated).sum() / annotated.sum().clamp(min=1)
        if self.task.kind == "single_label":
            return functional.cross_entropy(logits, labels)
        return functional.mse_loss(logits.squeeze(-1), labels)

"""Classification and regression of whole texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from regmean_lab.models.task_models import SequenceClassifier
from regmean_lab.modules.base import Batch, FisherObjective, TaskModule, register_module
from regmean_lab.modules.optimization import Optimization
from regmean_lab.statistics import Likelihood
from regmean_lab.suites.base import IGNORED, Task, TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIKELIHOODS: dict[TaskKind, Likelihood] = {
    "multi_label": "bernoulli",
    "single_label": "categorical",
    "regression": "gaussian",
}


@register_module("multi_label", "single_label", "regression")
class SequenceClassificationModule(SequenceClassifier, TaskModule):
    """Multi-label classification with ignored labels, single-label classification, or regression of a text.

    The model is one of ``AutoModelForSequenceClassification``. Labels are int64 of shape [batch] (``single_label``),
    int64 of shape [batch, labels] with ``IGNORED`` where not annotated (``multi_label``), or float32 of shape [batch]
    (``regression``).

    Attributes:
        label_weights: for ``multi_label``, weights of the loss of negatives and of positives of each label, shape
            [2, labels]; None weights all alike. Not part of the model.
    """

    label_weights: Tensor | None

    def __init__(self, model: PreTrainedModel, task: Task, optimization: Optimization | None = None) -> None:
        super().__init__(model, task, optimization)
        self.register_buffer("label_weights", None, persistent=False)

    @property
    def likelihood(self) -> Likelihood:
        """Bernoulli for each label, categorical, or Gaussian with variance 1."""
        return LIKELIHOODS[self.task.kind]

    def fisher_objective(self, labels_from: str) -> FisherObjective:
        """See :class:`TaskModule`; for "batch_hard" one label out of all outputs, whatever is annotated."""
        if self.task.kind == "regression" and labels_from in ("batch_hard", "batch_loss"):
            return FisherObjective("squared_error", self, self.fisher_labels, "batch_mean")
        if labels_from == "batch_hard":
            return FisherObjective("categorical", self, None, "batch_mean", "pseudo")
        return super().fisher_objective(labels_from)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, shape [batch, labels]."""
        logits: Tensor = self.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy over annotated labels, cross-entropy, or mean squared error: a scalar, float32.

        Weighted or not, the sum is divided by the number of annotated labels.
        """
        logits = logits.float()
        if self.task.kind == "multi_label":
            annotated = labels != IGNORED
            losses = functional.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
            if self.label_weights is not None:
                losses = losses * self.label_weights.gather(0, labels.clamp(min=0))
            return (losses * annotated).sum() / annotated.sum().clamp(min=1)
        if self.task.kind == "single_label":
            return functional.cross_entropy(logits, labels)
        return functional.mse_loss(logits.squeeze(-1), labels)

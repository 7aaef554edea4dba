"""Token classification: a label for each word of a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, cat
from torch.nn import functional

from regmean_lab.models.task_models import TokenClassifier
from regmean_lab.modules.base import Batch, TaskModule, register_module
from regmean_lab.statistics import Likelihood
from regmean_lab.suites.base import IGNORED


@register_module("token_labels")
class TokenClassificationModule(TokenClassifier, TaskModule):
    """One label of several for each word of a sentence.

    The model is one of ``AutoModelForTokenClassification``. Labels are int64 of shape [batch, tokens], ``IGNORED``
    where a token is not labelled: what is not the first of a word's tokens, and padding.
    """

    @property
    def likelihood(self) -> Likelihood:
        """Categorical for each labelled token."""
        return "categorical"

    def forward(self, batch: Batch) -> Tensor:
        """Logits, shape [batch, tokens, labels]."""
        logits: Tensor = self.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, the mean over the batch's labelled tokens (0 if there are none): a scalar, float32."""
        total = functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / (labels != IGNORED).sum().clamp(min=1)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Logits, or labels, of several batches as one tensor.

        Args:
            parts: logits [batch, tokens, labels], or labels [batch, tokens], with any number of tokens.

        Returns:
            Shape [examples, tokens, labels] or [examples, tokens] with the largest number of tokens; the rest is 0 in
            logits and ``IGNORED`` in labels.
        """
        longest = max(part.shape[1] for part in parts)
        fill = 0 if parts[0].is_floating_point() else IGNORED
        last = (0, 0) * (parts[0].dim() - 2)
        return cat([functional.pad(part, (*last, 0, longest - part.shape[1]), value=fill) for part in parts])

"""Language models of any text: decoders, and encoder-decoders with a text to write."""

from __future__ import annotations

from torch import Tensor

from regmean_lab.modules.base import Batch, FisherObjective, TaskModule
from regmean_lab.modules.text_generation import TextGenerationModule
from regmean_lab.statistics import Mask


class LanguageModule(TextGenerationModule):
    """Predicts each token of a text from those before it (and from what an encoder reads).

    Batches are those of :class:`~regmean_lab.suites.text_encoding.TextCollator`; logits have the shape [batch, written,
    vocabulary].
    """

    def forward(self, batch: Batch) -> Tensor:
        """Logits of each token that is written: shape [batch, written, vocabulary]."""
        if self._has_encoder:
            return self._token_logits(self._question(batch), batch["labels"])
        logits: Tensor = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        return logits

    def gram_pass(self, batch: Batch) -> None:
        """One teacher-forced pass."""
        self(batch)

    def gram_mask(self, batch: Batch) -> Mask:
        """Real tokens: of what each part of the model reads."""
        if self._has_encoder:
            return super().gram_mask({**batch, "target": batch["labels"]})
        return batch["attention_mask"]

    def gradient_mask(self, batch: Batch) -> Mask:
        """Real tokens, as in :meth:`gram_mask`."""
        return super().gradient_mask(batch) if self._has_encoder else batch["attention_mask"]

    def fisher_labels(self, batch: Batch) -> Tensor:
        """The tokens that are written, shape [batch, written]."""
        return batch["labels"]

    def fisher_objective(self, labels_from: str) -> FisherObjective:
        """See :class:`TaskModule`: the labels are all tokens that are written, in the loss as well."""
        return TaskModule.fisher_objective(self, labels_from)

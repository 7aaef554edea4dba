"""Language models of any text: decoders, and encoder-decoders with a text to write."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.text.rouge import rouge_score
from transformers import GenerationConfig

from regmean_lab.models.task_models import LanguageModel
from regmean_lab.modules.base import Batch, FisherObjective, TaskModule, register_module
from regmean_lab.modules.text_generation import TextGenerationModule
from regmean_lab.statistics import Mask
from regmean_lab.suites.base import IGNORED
from regmean_lab.suites.key_scores import ROUGE_SCORES

MOST_WRITTEN = 64
"""Most tokens that are written for a text that comes without a target."""

MORE_TOKENS = 8
"""How many tokens more than twice as many as its target has a text may have that is written for a ROUGE score."""


@register_module("text")
class LanguageModule(LanguageModel, TextGenerationModule):
    """Predicts each token of a text from those before it (and from what an encoder reads).

    Batches are those of :class:`~regmean_lab.suites.text_encoding.TextCollator`; logits have the shape [batch, written,
    vocabulary].
    """

    def batch_loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the tokens that are written, each given those before it."""
        return TaskModule.batch_loss(self, batch)

    def evaluate(self, batch: Batch) -> Tensor:
        """What scores of texts are made of: shape [batch, 3], float32; with a ROUGE score [batch, 4].

        Of each text that is written the sum of its tokens' log-probabilities, the number of tokens that are the most
        probable ones, and the number of tokens. If all are the most probable ones, and only then, greedy decoding
        writes the text. If a ROUGE score is the key score, each text is also written greedily, to at most twice its
        target's tokens and ``MORE_TOKENS``, and its score is the last column.
        """
        logits, labels = self(batch).float(), batch["labels"]
        real = labels != IGNORED
        chosen = logits.gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2)
        probabilities = (chosen - logits.logsumexp(2)) * real
        right = (logits.argmax(2) == labels) & real
        columns = [probabilities.sum(1), right.sum(1).float(), real.sum(1).float()]
        if self.task.key_score in ROUGE_SCORES:
            columns.append(self._rouge(batch).to(logits.device))
        return torch.stack(columns, 1)

    def _rouge(self, batch: Batch) -> Tensor:
        """The key score of each text, between 0 and 1: shape [batch], float32, on the CPU."""
        name, decode = self.task.key_score, self.tokenizer().batch_decode
        targets = [row[row != IGNORED].tolist() for row in batch["labels"]]
        limits = [2 * len(target) + MORE_TOKENS for target in targets]
        end = set(self._end_of_sequence(batch["labels"].device).tolist())
        written = []
        # A limit of its own for each text: what is written must not depend on what else is in the batch.
        for row, limit in zip(self._generated(batch, max(limits)).tolist(), limits, strict=True):
            written.append(list(takewhile(lambda token: token not in end, row[:limit])))
        pairs = zip(decode(written, skip_special_tokens=True), decode(targets, skip_special_tokens=True), strict=True)
        return torch.stack([rouge_score(one, two, rouge_keys=name)[f"{name}_fmeasure"] for one, two in pairs])

    def _generated(self, batch: Batch, tokens: int) -> Tensor:
        """What the model writes greedily: shape [batch, at most tokens], with padding after the end of a sequence."""
        read, labels = batch["attention_mask"], batch["labels"]
        if not self._has_encoder:  # of one sequence, what comes before the target
            read = read * ((labels != IGNORED).long().cumsum(1) <= 1)
            # The token from which the target's first one is predicted is the prompt's last one.
        question: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": read}
        if not self._has_encoder:
            question = self._question(question)
        greedy = GenerationConfig(
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=self._padding_token,
            eos_token_id=self.model.config.eos_token_id,
            decoder_start_token_id=getattr(self.model.config, "decoder_start_token_id", None),
        )
        with torch.no_grad():
            sequences: Any = self.model.generate(**question, generation_config=greedy)  # type: ignore[operator]
        start = 1 if self._has_encoder else question["input_ids"].shape[1]
        return sequences[:, start:]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Scores [examples, 3], or the tokens that are written [examples, tokens] with ``IGNORED`` after their end."""
        if parts[0].is_floating_point():
            return torch.cat(list(parts))
        longest = max(part.shape[1] for part in parts)
        return torch.cat([functional.pad(part, (0, longest - part.shape[1]), value=IGNORED) for part in parts])

    def with_answers(self, batch: Batch) -> Batch:
        """The batch with ``labels``: what an encoder-decoder writes greedily; of a decoder the tokens that follow."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        following = functional.pad(ids.masked_fill(mask == 0, IGNORED)[:, 1:], (0, 1), value=IGNORED)
        if not self._has_encoder:
            return {**batch, "labels": following}
        written = self._generated({**batch, "labels": following}, MOST_WRITTEN)
        end = torch.isin(written, self._end_of_sequence(written.device)).long().cumsum(1)
        after = functional.pad(end[:, :-1], (1, 0)) > 0
        return {**batch, "labels": written.masked_fill(after, IGNORED)}

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

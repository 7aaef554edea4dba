"""Text-to-text questions: encoder-decoders (T5) and decoders (GPT-2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from regmean_lab.models.task_models import AnsweringModel
from regmean_lab.modules.base import Batch, FisherObjective, TaskModule, WrittenAnswers, register_module
from regmean_lab.statistics import Likelihood, Mask
from regmean_lab.suites.base import IGNORED

WRITTEN_TOKENS = 4
"""Most tokens that are written as an answer."""


@register_module("answers")
class TextGenerationModule(AnsweringModel, TaskModule):
    """Answers yes or no in words.

    The model is one of ``AutoModelForSeq2SeqLM`` or ``AutoModelForCausalLM``, by its configuration. Batches are those
    of :class:`~regmean_lab.suites.answer_encoding.AnswerCollator`: ``target`` holds the tokens that training teaches,
    ``labels`` the answers as numbers, for metrics. Logits, shape [batch, 2], belong to the answers no and yes.
    """

    @property
    def likelihood(self) -> Likelihood:
        """One of two answers."""
        return "categorical"

    def forward(self, batch: Batch) -> Tensor:
        """Log-probabilities of the answers no and yes, given the question: shape [batch, 2], float32.

        An answer's is the sum over the tokens by which the answers differ, given those that both begin with; an
        end-of-sequence token after them is not counted. Where the answers differ by a single token, the model runs
        once; otherwise an encoder runs once, and the decoder once for each answer.
        """
        question, prefix, answers = self._question(batch), batch["answer_prefix"], batch["answers"]
        if answers.shape[2] == 1:
            following = torch.cat([prefix, answers[:, 0]], 1)  # its last token is not read
            logits = self._token_logits(question, following)[:, -1].float()
            return logits.log_softmax(-1).gather(1, answers[:, :, 0])
        sums = []
        for answer in answers.unbind(1):
            logits = self._token_logits(question, torch.cat([prefix, answer], 1))[:, prefix.shape[1] :].float()
            each = logits.log_softmax(-1).gather(2, answer.clamp(min=0).unsqueeze(2)).squeeze(2)
            sums.append((each * (answer != IGNORED)).sum(1))
        return torch.stack(sums, 1)

    def evaluate(self, batch: Batch) -> Tensor:
        """What :meth:`forward` gives; by generation (1, 0) for no and (0, 1) for yes.

        What is written is yes if it begins with the answer yes, and anything else is no.

        Raises:
            ValueError: for generation, if an answer has more than ``WRITTEN_TOKENS`` tokens.
        """
        if self.task.answer_by == "scoring":
            return self(batch)
        yes = torch.cat([batch["answer_prefix"], batch["answers"][:, 1]], 1)
        if yes.shape[1] > WRITTEN_TOKENS:
            raise ValueError(
                f"the answers have {yes.shape[1]} tokens and generation writes {WRITTEN_TOKENS}: use answer_by=scoring"
            )
        same = (self._write(batch, yes.shape[1]) == yes) | (yes == IGNORED)
        return functional.one_hot(same.all(1).long(), 2).float()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of answer tokens: a scalar, float32.

        Args:
            logits: shape [batch, tokens, vocabulary].
            labels: token ids, shape [batch, tokens]; ``IGNORED`` is left out.
        """
        return functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def batch_loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the right answers' tokens, each given those before it."""
        return self.loss(self._target_logits(batch), batch["target"])

    def with_answers(self, batch: Batch) -> Batch:
        """The batch with what the model writes greedily as ``target``."""
        first = batch["input_ids"]
        unanswered = {**batch, "target": first.new_full((len(first), 1), IGNORED)}
        *_, answered = TextGenerationModule.gram_batches(self, unanswered, WrittenAnswers(WRITTEN_TOKENS))
        return answered

    def gram_batches(self, batch: Batch, written: WrittenAnswers | None) -> Iterator[Batch]:
        """The batch; where answers are written also the batch with what the model writes in place of the right ones.

        Its layers get then the inputs that they get while the model writes, up to and including its end of sequence;
        with ``written.padding`` up to the step in which the last of the batch's answers ends, as in transformers'
        generation, which goes on with padding for those that have ended.
        """
        yield batch
        if written is not None:
            tokens = self._write(batch, written.tokens)
            ended = torch.isin(tokens, self._end_of_sequence(tokens.device)).long().cumsum(1)
            after = functional.pad(ended[:, :-1], (1, 0)) > 0  # the end itself is written, what follows it is not
            steps = int((~after).any(0).sum())
            fill = self._padding_token if written.padding else IGNORED
            yield {**batch, "target": tokens.masked_fill(after, fill)[:, :steps]}

    def gram_pass(self, batch: Batch) -> None:
        """One teacher-forced pass over questions and right answers."""
        self._target_logits(batch)

    def gram_mask(self, batch: Batch) -> Mask:
        """Real tokens: of the question in an encoder and in cross-attention's keys and values, of the answer elsewhere.

        A decoder's row counts if a token of the answer is predicted from it. Without an encoder, rows of the question
        count as well, except in the output layer, which does not see them.
        """
        predicted = batch["target"] != IGNORED
        if self._has_encoder:
            read = batch["attention_mask"]
            return {
                "*.EncDecAttention.[kv]": read,
                "*.encoder_attn.[kv]_proj": read,
                "*encoder.*": read,
                "*": predicted,
            }
        question = self._question(batch)
        output = self.model.get_output_embeddings()
        names = {name: predicted for name, module in self.model.named_modules() if module is output}
        return {**names, "*": torch.cat([question["attention_mask"].bool(), predicted[:, 1:]], 1)}

    def gradient_mask(self, batch: Batch) -> Mask:
        """Real tokens of the question in an encoder; all rows elsewhere, where padding has no gradient."""
        return {"*encoder.*": batch["attention_mask"]} if self._has_encoder else None

    def fisher_labels(self, batch: Batch) -> Tensor:
        """The right answers, shape [batch]."""
        return batch["labels"][:, 0]

    def fisher_objective(self, labels_from: str) -> FisherObjective:
        """See :class:`TaskModule`; for "batch_loss" all tokens of the right answers, out of the whole vocabulary."""
        if labels_from == "batch_loss":
            return FisherObjective("categorical", self._target_logits, lambda batch: batch["target"], "batch_mean")
        return super().fisher_objective(labels_from)

    @property
    def _has_encoder(self) -> bool:
        return bool(self.model.config.is_encoder_decoder)

    def _question(self, batch: Batch) -> dict[str, Any]:
        """The model's arguments for the questions: encoded, or (without an encoder) aligned at their ends."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if self._has_encoder:
            return {"encoder_outputs": self.model.get_encoder()(ids, attention_mask=mask), "attention_mask": mask}
        width = mask.shape[1]
        column = torch.arange(width, device=mask.device) - (width - mask.sum(1, keepdim=True))
        return {"input_ids": ids.gather(1, column % width), "attention_mask": mask.gather(1, column % width)}

    def _target_logits(self, batch: Batch) -> Tensor:
        """Logits of the right answers' tokens, each given those before it: shape [batch, tokens, vocabulary]."""
        return self._token_logits(self._question(batch), batch["target"])

    def _token_logits(self, question: dict[str, Any], tokens: Tensor) -> Tensor:
        """Logits of each of the tokens that follow the questions, given those before it.

        Args:
            question: from :meth:`_question`.
            tokens: shape [batch, tokens], ``IGNORED`` after their end; the last column is not read.

        Returns:
            Shape [batch, tokens, vocabulary].
        """
        before = tokens[:, :-1]
        # What follows a sequence's end changes nothing before it; where padding counts, it is read as padding.
        readable = before.masked_fill(before == IGNORED, self._padding_token)
        if self._has_encoder:
            start = tokens.new_full((len(tokens), 1), self.model.config.decoder_start_token_id)
            arguments = {**question, "decoder_input_ids": torch.cat([start, readable], 1)}
        else:
            mask = torch.cat([question["attention_mask"], (before != IGNORED).long()], 1)
            arguments = {
                "input_ids": torch.cat([question["input_ids"], readable], 1),
                "attention_mask": mask,
                "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
                "logits_to_keep": tokens.shape[1],
            }
        logits: Tensor = self.model(**arguments, use_cache=False).logits
        return logits

    def _write(self, batch: Batch, count: int) -> Tensor:
        """The ``count`` tokens that the model writes greedily, whatever comes after an end of sequence: [batch, count].

        Answers are a few tokens, so that decoding them again for each costs less than a cache.
        """
        with torch.no_grad():
            question = self._question(batch)
            written = batch["target"].new_zeros(len(batch["target"]), 1)
            for _ in range(count):
                best = self._token_logits(question, written)[:, -1].argmax(-1)
                written[:, -1] = best
                written = functional.pad(written, (0, 1))
            return written[:, :-1]

    @property
    def _padding_token(self) -> int:
        """Id of the token that fills up sequences: the model's own, or its first end of sequence, or 0."""
        padding = self.model.config.pad_token_id
        if padding is None:
            padding = next(iter(self._end_of_sequence(torch.device("cpu")).tolist()), 0)
        return int(padding)

    def _end_of_sequence(self, device: torch.device) -> Tensor:
        """Ids of the tokens that end a sequence; a model may have several, or none."""
        ids = self.model.config.eos_token_id
        return torch.tensor([] if ids is None else ids, dtype=torch.long, device=device).reshape(-1)

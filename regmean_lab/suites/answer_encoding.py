"""From text-to-text questions to batches: the question, and the tokens of both answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regmean_lab.suites.answers import AnswerExample, Wording
from regmean_lab.suites.base import IGNORED
from regmean_lab.suites.encoding import Collator, padded, register_encoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTINEL = "<extra_id_0>"
"""The token of T5's pretraining that stands for what is to be filled in."""


@dataclass(frozen=True)
class AnswerTokens:
    """Two answers as a tokenizer writes them.

    Attributes:
        prefix: tokens that both begin with.
        options: the tokens by which the answers number 0 and 1 differ; at least one each.
        end: the end-of-sequence token, where a written answer ends with one.
    """

    prefix: tuple[int, ...]
    options: tuple[tuple[int, ...], tuple[int, ...]]
    end: tuple[int, ...]

    def written(self, answer: int) -> tuple[int, ...]:
        """All tokens of one answer."""
        return (*self.prefix, *self.options[answer], *self.end)


@dataclass(frozen=True)
class EncodedQuestion:
    """One tokenised question.

    Attributes:
        tokens: the question's tokens, special ones included.
        answers: both answers.
        label: the right answer, 0 or 1, and the id of the label that is asked about.
    """

    tokens: tuple[int, ...]
    answers: AnswerTokens
    label: tuple[int, int]

    @property
    def length(self) -> int:
        """Number of the question's tokens."""
        return len(self.tokens)


def encode_questions(
    examples: Sequence[AnswerExample], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[EncodedQuestion]:
    """Tokenise questions, in order.

    Args:
        examples: questions with the same wordings.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: most tokens of a question, special ones included; of a longer one the text is cut at its end, so
            that the words around it stay. The answer is not counted. None cuts nothing.

    Raises:
        ValueError: if the tokenizer cannot tell the answers apart, or ``max_length`` leaves no room for a text.
    """
    if not examples:
        return []
    wording = suitable_wording(examples[0].wordings, tokenizer)
    answers = answer_tokens(wording, tokenizer)
    questions = [wording.ask(example.text, example.subject) for example in examples]
    encoded: list[list[int]] = tokenizer(questions, verbose=False)["input_ids"]
    return [
        EncodedQuestion(
            tuple(tokens)
            if max_length is None or len(tokens) <= max_length
            else _cut(example, wording, tokenizer, len(tokens), max_length),
            answers,
            example.label,
        )
        for example, tokens in zip(examples, encoded, strict=True)
    ]


def suitable_wording(wordings: Sequence[Wording], tokenizer: PreTrainedTokenizerBase) -> Wording:
    """The only wording; of several, the text-to-text one if the tokenizer has the sentinel token, else the causal one.

    Encoder-decoders that were pretrained like T5 have the sentinel, and so their tokenizers tell which form suits.
    """
    if len(wordings) == 1:
        return wordings[0]
    form = "text_to_text" if SENTINEL in tokenizer.get_vocab() else "causal"
    return next(wording for wording in wordings if wording.form == form)


def answer_tokens(wording: Wording, tokenizer: PreTrainedTokenizerBase) -> AnswerTokens:
    """Tokens of both answers: whole sequences (text to text), or what follows a question (causal).

    Raises:
        ValueError: if the answers' tokens do not differ, or one answer is the beginning of the other.
    """
    written = [
        tokenizer(answer)["input_ids"] if wording.form == "text_to_text" else _continuation(answer, tokenizer)
        for answer in wording.answers
    ]
    end: tuple[int, ...] = ()
    if wording.form == "text_to_text" and all(tokens[-1] == tokenizer.eos_token_id for tokens in written):
        end = (written[0][-1],)
        written = [tokens[:-1] for tokens in written]
    shared = 0
    for first, second in zip(*written, strict=False):
        if first != second:
            break
        shared += 1
    no, yes = (tuple(tokens[shared:]) for tokens in written)
    if not no or not yes:
        raise ValueError(
            f"{type(tokenizer).__name__} writes {wording.answers[0]!r} as {written[0]} and {wording.answers[1]!r} as "
            f"{written[1]}: one begins with the other, so that they cannot be told apart"
        )
    return AnswerTokens(tuple(written[0][:shared]), (no, yes), end)


class AnswerCollator(Collator):
    """Joins tokenised questions into one batch, padded on the right to its longest one.

    All tensors are int64 and have the examples first, so that parts of a batch are batches:

    - ``input_ids``, ``attention_mask``: the question, [batch, tokens];
    - ``answer_prefix``: the tokens that both answers begin with, [batch, prefix], often none;
    - ``answers``: those by which the answers number 0 and 1 differ, [batch, 2, differing], ``IGNORED`` after the
      shorter one;
    - ``target``: the right answer as it is written, [batch, written], ``IGNORED`` after its end;
    - ``labels``: the right answer, 0 or 1, and the id of the label that is asked about, [batch, 2].

    For the arguments see :class:`~regmean_lab.suites.encoding.Collator`.
    """

    def __call__(self, batch: Sequence[EncodedQuestion]) -> dict[str, Tensor]:  # type: ignore[override]
        """Pad and stack a batch."""
        step = self.pad_to_multiple_of or 1
        width = -(-max(example.length for example in batch) // step) * step
        written = [[example.answers.written(answer) for answer in (0, 1)] for example in batch]
        options = [tokens for example in batch for tokens in example.answers.options]
        longest = max(len(tokens) for pair in written for tokens in pair)
        return {
            "input_ids": padded([example.tokens for example in batch], width, int(self.tokenizer.pad_token_id)),
            "attention_mask": padded([(1,) * example.length for example in batch], width, 0),
            "answer_prefix": torch.tensor([example.answers.prefix for example in batch], dtype=torch.long),
            "answers": padded(options, max(map(len, options)), IGNORED).unflatten(0, (-1, 2)),
            "target": padded(
                [pair[example.label[0]] for pair, example in zip(written, batch, strict=True)], longest, IGNORED
            ),
            "labels": torch.tensor([example.label for example in batch], dtype=torch.long),
        }


def _continuation(answer: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of an answer after the full stop that ends a question."""
    before, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (".", f".{answer}"))
    if whole[: len(before)] != before:
        raise ValueError(f"{type(tokenizer).__name__} joins the answer {answer!r} to the full stop before it")
    return list(whole[len(before) :])


def _cut(
    example: AnswerExample, wording: Wording, tokenizer: PreTrainedTokenizerBase, length: int, max_length: int
) -> tuple[int, ...]:
    """Tokens of a question that is too long (``length`` tokens), with the end of its text left out."""
    text = tokenizer(example.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in text["offset_mapping"]]
    # What is left of a text may have other tokens at its end than before: hence several attempts.
    for kept in range(len(ends) - (length - max_length), 0, -1):
        tokens = tokenizer(wording.ask(example.text[: ends[kept - 1]], example.subject))["input_ids"]
        if len(tokens) <= max_length:
            return tuple(tokens)
    raise ValueError(f"max_length={max_length}: the question {wording.question!r} leaves no room for a text")


register_encoding(("answers",), encode_questions, AnswerCollator)

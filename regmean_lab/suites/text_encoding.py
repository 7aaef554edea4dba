"""From texts to batches for language models: each token is predicted from those before it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from regmean_lab.suites.base import IGNORED, DataError
from regmean_lab.suites.encoding import Collator, padded, register_encoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextExample:
    """A text that a decoder writes; or one that an encoder reads, and the ``target`` that its decoder writes."""

    text: str
    target: str | None = None


@dataclass(frozen=True)
class PromptedText(TextExample):
    """A text that a decoder reads, and the ``target`` that it writes after it, both in one sequence."""


@dataclass(frozen=True)
class Conversation(TextExample):
    """Messages that a decoder reads as its tokenizer's chat template puts them; ``text`` is their list as JSON."""


@dataclass(frozen=True)
class EncodedText:
    """One tokenised example.

    Attributes:
        tokens: what the model reads.
        target: the tokens that it writes: of a decoder, for each token read the one that follows.
        has_encoder: whether the target has a length of its own.
    """

    tokens: tuple[int, ...]
    target: tuple[int, ...]
    has_encoder: bool

    @property
    def length(self) -> int:
        """Number of tokens that the model computes with."""
        return len(self.tokens) + (len(self.target) if self.has_encoder else 0)


def encode_texts(
    examples: Sequence[TextExample], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[EncodedText]:
    """Tokenise texts, in order.

    Args:
        examples: texts; of all of them, or of none, the target is given, and all or none are :class:`PromptedText`.
        tokenizer: a Hugging Face tokenizer.
        max_length: texts, and targets, are cut to this many tokens; None cuts nothing.

    Returns:
        The encoded examples; those without any token are left out.

    Raises:
        DataError: for a :class:`Conversation` that the tokenizer's chat template does not take, or where it has none.
    """
    if not examples:
        return []
    if isinstance(examples[0], PromptedText):
        encoded = [_prompted(example, tokenizer, max_length) for example in examples]
        return [example for example in encoded if any(token != IGNORED for token in example.target)]
    cut: dict[str, Any] = {"truncation": max_length is not None, "max_length": max_length}
    if any(isinstance(example, Conversation) for example in examples):
        read = _conversations(examples, tokenizer, cut)
    else:
        read = tokenizer([example.text for example in examples], **cut)["input_ids"]
    targets = [example.target for example in examples if example.target is not None]
    if targets:
        written = tokenizer(text_target=targets, **cut)["input_ids"]
        encoded = [EncodedText(tuple(one), tuple(other), True) for one, other in zip(read, written, strict=True)]
    else:
        # Nothing is predicted from the last token, unless it is the only one that there is to read.
        following = [tuple(tokens[1:]) or (IGNORED,) * len(tokens) for tokens in read]
        encoded = [EncodedText(tuple(one[: len(two)]), two, False) for one, two in zip(read, following, strict=True)]
    return [example for example in encoded if example.tokens and example.target]


def template_problem(examples: Iterable[Any], tokenizer: Callable[[], PreTrainedTokenizerBase]) -> str | None:
    """Why a tokenizer, which is loaded if need be, cannot read examples: conversations, where it has no template."""
    if not any(isinstance(example, Conversation) for example in examples) or tokenizer().chat_template is not None:
        return None
    return (
        "messages: the model's tokenizer has no chat template that would make a text of them; put the one that the "
        "model was trained with into its folder (chat_template.jinja), or give a column of whole texts (text=NAME)"
    )


def _conversations(
    examples: Sequence[TextExample], tokenizer: PreTrainedTokenizerBase, cut: Mapping[str, Any]
) -> list[list[int]]:
    """Tokens of conversations, and of texts among them. A template writes special tokens itself."""
    if problem := template_problem(examples, lambda: tokenizer):
        raise DataError(problem)
    read = []
    for number, example in enumerate(examples, 1):
        text: Any = example.text
        special = True
        if isinstance(example, Conversation):
            try:
                text, special = tokenizer.apply_chat_template(json.loads(text), tokenize=False), False
            except Exception as error:  # whatever a template raises, or the language that it is written in
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise DataError(
                    f"messages: conversation {number} is not one for the model's chat template: {reason}; leave such "
                    "conversations out of the data, or change them"
                ) from None
        read.append(list(tokenizer(text, add_special_tokens=special, **cut)["input_ids"]))
    return read


def _prompted(example: TextExample, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> EncodedText:
    """A prompt and the text after it as one sequence, in which only the text and the sequence's end are predicted.

    Of what is too long the beginning of the prompt is left out.
    """
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    prompt = list(tokenizer(example.text)["input_ids"])
    if end and prompt[-1:] == end:
        prompt = prompt[:-1]
    target = [*tokenizer(example.target or "", add_special_tokens=False)["input_ids"], *end]
    sequence, given = [*prompt, *target], len(prompt)
    if max_length is not None and (over := max(0, len(sequence) - max_length)):
        sequence, given = sequence[over:], max(0, given - over)
    following = [IGNORED] * max(0, given - 1) + sequence[max(given, 1) :]
    return EncodedText(tuple(sequence[: len(following)]), tuple(following), False)


class TextCollator(Collator):
    """Joins tokenised texts into one batch, padded on the right to its longest one.

    The batch holds ``input_ids`` and ``attention_mask`` [batch, tokens], and ``labels``, the tokens that are written,
    [batch, written] with ``IGNORED`` after their end: all int64. For the arguments see
    :class:`~regmean_lab.suites.encoding.Collator`.
    """

    def __call__(self, batch: Sequence[EncodedText]) -> dict[str, Tensor]:  # type: ignore[override]
        """Pad and stack a batch."""
        step = self.pad_to_multiple_of or 1
        read = [example.tokens for example in batch]
        width = -(-max(map(len, read)) // step) * step
        written = [example.target for example in batch]
        longest = max(map(len, written)) if batch[0].has_encoder else width
        return {
            "input_ids": padded(read, width, int(self.tokenizer.pad_token_id)),
            "attention_mask": padded([(1,) * len(tokens) for tokens in read], width, 0),
            "labels": padded(written, longest, IGNORED),
        }


register_encoding(("text",), encode_texts, TextCollator)

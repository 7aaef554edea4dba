"""From words with tags to batches: sub-tokens of which the first of each word is labelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.conll import TokenExample, continues_entity
from regmean_lab.suites.encoding import Collator, register_encoding

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedTokens:
    """One tokenised sentence, or a part of a long one.

    Attributes:
        inputs: what the tokenizer makes (``input_ids``, ``attention_mask``, for some models ``token_type_ids``), each a
            list with one entry a sub-token, without padding.
        tags: for each sub-token the tag of the word that it begins; None for what begins no word.
    """

    inputs: dict[str, list[int]]
    tags: list[str | None]

    @property
    def length(self) -> int:
        """Number of sub-tokens."""
        return len(self.tags)


def encode_tokens(
    examples: Sequence[TokenExample], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[EncodedTokens]:
    """Tokenise sentences, in order.

    Every word is tokenised with a space before it, as ``add_prefix_space=True`` does for the tokenizers that have it. A
    word of which the tokenizer makes nothing (a lone variation selector) becomes the unknown token.

    No word is cut off, so that every entity counts. A sentence that is longer than ``max_length``, or than the model
    can take (``tokenizer.model_max_length``), is given to the model in consecutive parts, each of which becomes an
    item of its own. Parts are as long as possible, but do not end inside an entity, unless one is longer than a whole
    part. Of a single word that is too long its first sub-tokens are kept, and with them its label.

    Args:
        examples: sentences.
        tokenizer: a fast Hugging Face tokenizer, which knows the word that a sub-token comes from.
        max_length: most sub-tokens in an item, special tokens included; None leaves it to the tokenizer.

    Raises:
        ValueError: if the tokenizer is not a fast one, has no unknown token for a word that needs it, or
            ``max_length`` leaves no room for a word.
    """
    if not examples:
        return []
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer: it cannot tell which word a token is of."
        )
    longest = min(tokenizer.model_max_length, max_length or tokenizer.model_max_length)
    room = longest - tokenizer.num_special_tokens_to_add()
    if room < 1:
        raise ValueError(f"max_length={longest}: the special tokens leave no room for a word.")
    whole = _tokenize(examples, tokenizer)
    encoded: list[EncodedTokens] = []
    split = 0
    for index, example in enumerate(examples):
        sizes = _sub_tokens(whole, index, len(example.tokens))
        if 0 not in sizes and sum(sizes) <= room:
            encoded.append(_encoded(whole, index, example))
            continue
        parts = _parts(_readable(example, sizes, tokenizer), [max(size, 1) for size in sizes], room)
        split += len(parts) > 1
        again = _tokenize(parts, tokenizer, longest)
        encoded += [_encoded(again, number, part) for number, part in enumerate(parts)]
    if split:
        _logger.info(
            "%d of %d sentences are longer than %d tokens and are given to the model in parts",
            split,
            len(examples),
            longest,
        )
    return encoded


class TokenCollator(Collator):
    """Joins tokenised sentences into one batch, padded to its longest one.

    The batch holds the tokenizer's tensors and ``labels``, the ids of the tags: all int64 of shape [batch, longest].
    Labels are ``IGNORED`` where no word begins, and at padding. For the arguments see
    :class:`~regmean_lab.suites.encoding.Collator`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: Task, pad_to_multiple_of: int | None = None) -> None:
        super().__init__(tokenizer, task, pad_to_multiple_of)
        self.ids: dict[str | None, int] = {None: IGNORED, **{label: number for number, label in enumerate(task.labels)}}

    def __call__(self, batch: Sequence[EncodedTokens]) -> dict[str, Tensor]:  # type: ignore[override]
        """Pad and stack a batch."""
        padded = self.tokenizer.pad(
            [example.inputs for example in batch],
            padding=True,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors="pt",
        )
        labels = torch.full(padded["input_ids"].shape, IGNORED)
        for row, example in zip(labels, batch, strict=True):
            own = (
                slice(len(row) - example.length, None)
                if self.tokenizer.padding_side == "left"
                else slice(example.length)
            )
            row[own] = torch.tensor([self.ids[tag] for tag in example.tags])
        return {**padded, "labels": labels}


def _tokenize(
    examples: Sequence[TokenExample], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> BatchEncoding:
    unknown = tokenizer.unk_token
    return tokenizer(
        [[word if word == unknown else f" {word}" for word in example.tokens] for example in examples],
        is_split_into_words=True,
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=True,
        verbose=False,
    )


def _sub_tokens(encoded: BatchEncoding, index: int, words: int) -> list[int]:
    """How many sub-tokens each word of a sentence has."""
    sizes = [0] * words
    for word in encoded.word_ids(index):
        if word is not None:
            sizes[word] += 1
    return sizes


def _encoded(encoded: BatchEncoding, index: int, example: TokenExample) -> EncodedTokens:
    tags: list[str | None] = []
    before = None
    for word in encoded.word_ids(index):
        tags.append(None if word is None or word == before else example.tags[word])
        before = word
    return EncodedTokens({name: values[index] for name, values in encoded.items()}, tags)


def _readable(example: TokenExample, sizes: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> TokenExample:
    """The sentence with the unknown token in place of words without sub-tokens."""
    unread = [word for word, size in zip(example.tokens, sizes, strict=True) if size == 0]
    if not unread:
        return example
    if tokenizer.unk_token is None:
        raise ValueError(
            f"{type(tokenizer).__name__} makes no token of the word {unread[0]!a}, and has no unknown token: set "
            "tokenizer.unk_token."
        )
    tokens = [word if size else str(tokenizer.unk_token) for word, size in zip(example.tokens, sizes, strict=True)]
    return TokenExample(tuple(tokens), example.tags)


def _parts(example: TokenExample, sizes: Sequence[int], room: int) -> list[TokenExample]:
    """The sentence in consecutive parts of at most ``room`` sub-tokens (or one longer word), cut outside entities."""
    parts = []
    start = 0
    while start < len(sizes):
        end, used = start + 1, sizes[start]
        while end < len(sizes) and used + sizes[end] <= room:
            used += sizes[end]
            end += 1
        cut = end
        while start < cut < len(sizes) and continues_entity(example.tags, cut):
            cut -= 1
        end = cut if cut > start else end
        parts.append(TokenExample(example.tokens[start:end], example.tags[start:end]))
        start = end
    return parts


register_encoding(("token_labels",), encode_tokens, TokenCollator)

"""From examples to batches of tensors: tokenisation and dynamic padding.

Each kind of task has its own encoding. A kind that is not of whole texts registers one in a file of its own
(``…_encoding.py``).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from regmean_lab.suites.base import Example, Task, TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoded(Protocol):
    """One tokenised example, as far as samplers need to know it."""

    @property
    def length(self) -> int:
        """Number of tokens."""


Encode: TypeAlias = "Callable[[Sequence[Any], PreTrainedTokenizerBase, int | None], Sequence[Encoded]]"
"""Tokenises examples in order, cut to a number of tokens (None cuts nothing); see :func:`encode`."""

MakeCollator: TypeAlias = (
    "Callable[[PreTrainedTokenizerBase, Task, int | None], Callable[[Sequence[Any]], dict[str, Tensor]]]"
)
"""Makes what joins encoded examples into a batch; see :class:`Collator`."""

_ENCODINGS: dict[TaskKind, tuple[Encode, MakeCollator]] = {}


def register_encoding(kinds: Sequence[TaskKind], encode: Encode, make_collator: MakeCollator) -> None:
    """Say how the examples of some kinds of task become batches."""
    for kind in kinds:
        _ENCODINGS[kind] = (encode, make_collator)


def encoding_of(task: Task) -> tuple[Encode, MakeCollator]:
    """How the examples of a task are tokenised, and how they are joined into batches."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.endswith("_encoding"):
            importlib.import_module(f"regmean_lab.suites.{module.name}")
    return _ENCODINGS[task.kind]


@dataclass(frozen=True)
class EncodedExample:
    """One tokenised example.

    Attributes:
        inputs: what the tokenizer makes (``input_ids``, ``attention_mask``, for some models ``token_type_ids``), each a
            list with one entry a token, without padding.
        label: the example's label, as in :class:`~regmean_lab.suites.base.Example`.
        texts: 2 for a pair, otherwise 1.
    """

    inputs: dict[str, list[int]]
    label: int | float | tuple[int, ...]
    texts: int = 1

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.inputs["input_ids"])


def encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[EncodedExample]:
    """Tokenise examples, in order.

    Args:
        examples: sentences, or pairs of sentences.
        tokenizer: a Hugging Face tokenizer.
        max_length: longer inputs are cut to this many tokens, special tokens included (of a pair, the longer sentence
            is cut first); None cuts nothing.

    Raises:
        ValueError: if some examples are pairs and others are not.
    """
    if not examples:
        return []
    texts = [example.text for example in examples]
    pairs = [example.text_pair for example in examples if example.text_pair is not None]
    if pairs and len(pairs) != len(texts):
        raise ValueError(f"{len(pairs)} of {len(texts)} examples are pairs of sentences; expected all or none.")
    encoded = tokenizer(
        texts, pairs or None, truncation=max_length is not None, max_length=max_length, return_attention_mask=True
    )
    return [
        EncodedExample({key: values[index] for key, values in encoded.items()}, example.label, 2 if pairs else 1)
        for index, example in enumerate(examples)
    ]


class Collator:
    """Joins encoded examples into one batch, padded to its longest example.

    The batch holds the tokenizer's tensors (int64, [batch, longest]) and ``labels``: int64 [batch] for
    ``single_label``, float32 [batch] for ``regression``, int64 [batch, labels] with ``IGNORED`` where a label is not
    annotated for ``multi_label``.

    Args:
        tokenizer: the tokenizer that encoded the examples.
        task: says which form the labels have.
        pad_to_multiple_of: round the length up to a multiple of this number (8 suits tensor cores); None does not.

    Attributes:
        texts: how many texts every example has, 1 or 2.

    Raises:
        ValueError: if the tokenizer has no padding token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: Task, pad_to_multiple_of: int | None = None) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError(
                f"the tokenizer {type(tokenizer).__name__} has no padding token: set tokenizer.pad_token, for instance "
                "to tokenizer.eos_token, and model.config.pad_token_id to its id."
            )
        self.tokenizer = tokenizer
        self.texts = 1
        self.label_type = torch.float32 if task.kind == "regression" else torch.long
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, batch: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Pad and stack a batch."""
        padded = self.tokenizer.pad(
            [example.inputs for example in batch],
            padding=True,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors="pt",
        )
        return {**padded, "labels": torch.tensor([example.label for example in batch], dtype=self.label_type)}


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    """Rows of whole numbers as one int64 tensor [rows, width], with ``fill`` after the end of each."""
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.long)


register_encoding(("multi_label", "single_label", "regression", "unlabelled"), encode, Collator)

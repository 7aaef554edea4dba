"""A cache of tokenised examples for the jobs that one process runs: those of a sweep mostly read the same text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from regmean_lab.suites.base import Task
from regmean_lab.suites.encoding import Encoded, encoding_of
from regmean_lab.utils.files import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_EXAMPLES = 200_000
"""Size of the LRU cache, in examples; with sentences of 30 tokens it takes about 300 MB."""

_kept: OrderedDict[tuple[Any, ...], tuple[PreTrainedTokenizerBase, list[Encoded]]] = OrderedDict()


def encode_once(
    examples: Sequence[Any], task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[Encoded]:
    """Examples as the encoding of their task makes them; the same ones are encoded once.

    Args:
        examples: the examples.
        task: whose encoding it is.
        tokenizer: the tokenizer; the same object for the same encoding.
        max_length: inputs are cut to this many tokens; None cuts nothing.

    Returns:
        A list that belongs to the caller, of encoded examples that are shared and must not be changed.
    """
    # The tokenizer is kept with what it made, so that no other one can get its identity.
    key = (id(tokenizer), task, max_length, sha256_of(map(repr, examples)))
    if key not in _kept:
        encode, _ = encoding_of(task)
        _kept[key] = (tokenizer, list(encode(examples, tokenizer, max_length)))
    _kept.move_to_end(key)
    _, encoded = _kept[key]
    total = sum(len(part) for _, part in _kept.values())
    while total > MOST_EXAMPLES and len(_kept) > 1:
        _, (_, oldest) = _kept.popitem(last=False)
        total -= len(oldest)
    return list(encoded)

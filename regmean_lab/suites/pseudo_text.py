"""Batches of pseudo-text for a model: what is drawn from counts of tokens, with the tokenizer's special tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from regmean_lab.statistics.errors import StatisticsError
from regmean_lab.statistics.pseudo_text import PseudoText
from regmean_lab.statistics.token_counts import TokenCounts, mapped
from regmean_lab.statistics.vocabulary import Vocabulary
from regmean_lab.suites.batch_sampling import TokenBudgetBatchSampler
from regmean_lab.suites.encoding import padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "a"
"""A text that shows what a tokenizer puts around texts."""


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The vocabulary of a tokenizer, tokens added to it included."""
    by_text = tokenizer.get_vocab()
    tokens: list[str | None] = [None] * (max(by_text.values(), default=-1) + 1)
    for text, id_ in by_text.items():
        tokens[id_] = text
    special = frozenset(tokenizer.all_special_ids)
    unknown = tokenizer.unk_token_id
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id}
    separators = special if unknown in ends else special - {unknown}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    algorithm = type(tokenizer).__name__ if backend is None else type(backend.model).__name__
    return Vocabulary(tuple(tokens), special, frozenset(separators), algorithm, _pair_frame(tokenizer))


def _pair_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """See :class:`Vocabulary`; empty as well where it is not clear what stands around texts."""
    try:
        frame = Frame(tokenizer, 2)
    except StatisticsError:
        return ()
    return frame.tokens if frame.separates else ()


@dataclass(frozen=True)
class PseudoExample:
    """One drawn example: what the tokenizer would make of its text, each a list with one entry a token."""

    inputs: dict[str, list[int]]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.inputs["input_ids"])


class Frame:
    """What a tokenizer puts before, between and after texts.

    Args:
        tokenizer: the tokenizer.
        parts: texts an example, 1 or 2.

    Raises:
        StatisticsError: when that cannot be told.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, parts: int) -> None:
        encoded = tokenizer(*[PROBE] * parts, return_special_tokens_mask=True, return_attention_mask=True)
        each = len(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
        numbers = (place // max(each, 1) for place in itertools.count())
        own = [None if special else next(numbers) for special in encoded["special_tokens_mask"]]
        if len(own) - own.count(None) != each * parts:
            own = []
        self._names = [name for name in encoded if name in ("input_ids", "attention_mask", "token_type_ids")]
        self._pieces: list[int | dict[str, int]] = []
        for place, part in enumerate(own):
            if part is None:
                self._pieces.append({name: int(encoded[name][place]) for name in self._names})
            elif part not in self._pieces:
                self._pieces.append(part)
        self._types = {part: int(encoded.get("token_type_ids", [0] * len(own))[own.index(part)]) for part in {*own}}
        if [piece for piece in self._pieces if isinstance(piece, int)] != list(range(parts)):
            raise StatisticsError(f"{type(tokenizer).__name__}: it is not clear what it puts around texts")
        self.tokens = tuple(piece["input_ids"] for piece in self._pieces if isinstance(piece, dict))
        """Ids of the special tokens, in order."""
        self.special = len(self.tokens)
        """Number of special tokens."""
        self.separates = self._pieces.index(parts - 1) - self._pieces.index(0) != 1
        """Whether any stands between two texts."""

    def around(self, parts: Sequence[Sequence[int]]) -> PseudoExample:
        """An example of one text or two."""
        inputs: dict[str, list[int]] = {name: [] for name in self._names}
        for piece in self._pieces:
            tokens = [] if isinstance(piece, dict) else parts[piece]
            for name, column in inputs.items():
                if isinstance(piece, dict):
                    column.append(piece[name])
                else:
                    fill = {"attention_mask": 1, "token_type_ids": self._types[piece]}
                    column.extend(tokens if name == "input_ids" else [fill[name]] * len(tokens))
        return PseudoExample(inputs)


class PseudoExamples(Dataset[PseudoExample]):
    """Pseudo-text of one member: any number of examples, the same for the same counts, seed and number.

    Args:
        counts: what its owner published.
        tokenizer: of the model that reads; where that is another one than counted, tokens are matched by their texts.
        seed: determines the examples.
        examples: how many there are.
        max_length: most tokens of one, special ones included; None cuts none.

    Raises:
        StatisticsError: for counts from which nothing can be drawn, or that are of another tokenizer.
    """

    def __init__(
        self,
        counts: TokenCounts,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        examples: int = 1,
        max_length: int | None = None,
    ) -> None:
        own = mapped(counts, vocabulary_of(tokenizer))
        self.known = own.known
        self.examples = examples
        self._frame = Frame(tokenizer, counts.parts)
        self._text = PseudoText(own, seed, None if max_length is None else max_length - self._frame.special)

    def __len__(self) -> int:
        """How many there are."""
        return self.examples

    def __getitem__(self, number: int) -> PseudoExample:
        """Example ``number``, from 0; there are more than ``examples`` if asked for."""
        return self._frame.around(self._text.parts_of(number))


class EndlessExamples(IterableDataset[PseudoExample]):
    """All examples from a number on, without an end."""

    def __init__(self, examples: PseudoExamples, first: int = 0) -> None:
        self.examples = examples
        self.first = first

    def __iter__(self) -> Iterator[PseudoExample]:
        """One after the other."""
        return map(self.examples.__getitem__, itertools.count(self.first))


def pad(padding: int) -> Callable[[Sequence[PseudoExample]], dict[str, Tensor]]:
    """What joins examples into a batch: int64 [examples, longest] each, padded on the right with a token's id."""
    return partial(_padded, padding)


def pseudo_loader(
    counts: TokenCounts,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    examples: int | None = None,
    batch_size: int = 16,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    first: int = 0,
) -> DataLoader[PseudoExample]:
    """Batches of a member's pseudo-text: ``input_ids``, ``attention_mask`` and, for some models, ``token_type_ids``.

    Args:
        counts: what the member's owner published.
        tokenizer: of the model that reads.
        seed: determines the examples: those of fewer are part of those of more.
        examples: how many; None goes on without an end, from ``first`` on, in batches of ``batch_size``.
        batch_size: examples a batch.
        batch_tokens: with ``examples``, make batches of like lengths with at most this many tokens, padding included,
            in place of ``batch_size``.
        max_length: most tokens of an example, special ones included; None cuts none.
        first: number of the first example, where there is no end.

    Raises:
        StatisticsError: see :class:`PseudoExamples`.
    """
    drawn = PseudoExamples(counts, tokenizer, seed, examples or 1, max_length)
    collate = pad(int(tokenizer.pad_token_id or 0))
    if examples is None:
        return DataLoader(EndlessExamples(drawn, first), batch_size=batch_size, collate_fn=collate)
    sample = [drawn[number] for number in range(examples)]
    data: Dataset[PseudoExample] = sample  # type: ignore[assignment]  # a list is a map-style dataset
    if batch_tokens is None:
        return DataLoader(data, batch_size=batch_size, collate_fn=collate)
    return example_loader(sample, tokenizer, batch_tokens)


def example_loader(
    examples: Sequence[PseudoExample], tokenizer: PreTrainedTokenizerBase, batch_tokens: int
) -> DataLoader[PseudoExample]:
    """Batches of examples of like lengths with at most so many tokens, padding included, the longest first."""
    sampler = TokenBudgetBatchSampler([example.length for example in examples], batch_tokens)
    data: Dataset[PseudoExample] = examples  # type: ignore[assignment]
    return DataLoader(data, batch_sampler=sampler, collate_fn=pad(int(tokenizer.pad_token_id or 0)))


def _padded(padding: int, batch: Sequence[PseudoExample]) -> dict[str, Tensor]:
    width = max(example.length for example in batch)
    return {
        name: padded([example.inputs[name] for example in batch], width, padding if name == "input_ids" else 0)
        for name in batch[0].inputs
    }

"""Text of members without an end, for methods that read it step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

from regmean_lab.callbacks.refine import TextReading
from regmean_lab.callbacks.statistics import MakeBatches
from regmean_lab.merging.member_text import OWN
from regmean_lab.modules.base import Batch
from regmean_lab.statistics.token_counts import TokenCounts
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.plain_text import plain_loader, read_texts
from regmean_lab.suites.pseudo_text import PseudoExamples, pad, vocabulary_of
from regmean_lab.suites.sampling import seeded_permutation
from regmean_lab.training.distillation import TextStream
from regmean_lab.utils.files import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_HELD_OUT = 0.25
"""Share of a member's texts that are held out at most."""

LONGEST_BATCH = 1 << 30
"""More tokens than a batch has: texts are only encoded."""


class StreamSettings(Protocol):
    """What is read, and how much of it at a time."""

    text: str
    text_seed: int
    examples: int | None
    held_out: int
    batch_size: int

    @property
    def text_file(self) -> Any:
        """The file of texts that every member reads, if one is."""


class ExampleText:
    """Examples, again and again in another order; the first of them are held out.

    Args:
        examples: encoded examples, in the order in which they are drawn.
        collate: joins examples into a batch.
        settings: how many a batch, how many are held out, and the seed.
        task: of the models that read examples without labels; None where they have labels.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        collate: Callable[[Sequence[Any]], Batch],
        settings: StreamSettings,
        task: Task | None = None,
    ) -> None:
        held = min(settings.held_out, max(1, int(MOST_HELD_OUT * len(examples))))
        self._held, self._read = examples[:held], examples[held:] or examples
        self._collate = collate
        self._settings = settings
        self._told = _told_of(task)
        self._order: tuple[int, list[int]] = (-1, [])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the examples."""
        return sha256_of(map(repr, [*self._held, *self._read, *self._told]))

    def batch(self, step: int) -> Batch:
        """As many as a batch has, from where the last step ended."""
        size = self._settings.batch_size
        return self._collate([self._read[self._place(number)] for number in range(step * size, (step + 1) * size)])

    def held_out(self) -> list[Batch]:
        """Batches of those that are held out."""
        size = self._settings.batch_size
        return [self._collate(self._held[start : start + size]) for start in range(0, len(self._held), size)]

    def _place(self, number: int) -> int:
        epoch, place = divmod(number, len(self._read))
        if self._order[0] != epoch:
            self._order = epoch, seeded_permutation(len(self._read), self._settings.text_seed + epoch)
        return self._order[1][place]


class PseudoStream:
    """Pseudo-text: other sentences in each step, and other ones again that are held out.

    Args:
        counts: what it is drawn from.
        tokenizer: of the model that reads.
        settings: how many a batch, how many are held out, and the seed.
        max_length: most tokens of a text, special ones included; None cuts none.
        task: of the models that read.

    Raises:
        StatisticsError: for counts from which nothing can be drawn, or that are of another tokenizer.
    """

    def __init__(
        self,
        counts: TokenCounts,
        tokenizer: PreTrainedTokenizerBase,
        settings: StreamSettings,
        max_length: int | None,
        task: Task | None = None,
    ) -> None:
        self._counts, self._settings = counts, settings
        self._drawn = PseudoExamples(counts, tokenizer, settings.text_seed, max_length=max_length)
        # No seed that a user gives is below 0.
        self._held = PseudoExamples(counts, tokenizer, -1 - settings.text_seed, max_length=max_length)
        self._collate = unlabelled(pad(int(tokenizer.pad_token_id or 0)), tokenizer, task)
        self._described = (vocabulary_of(tokenizer).digest, max_length, *_told_of(task))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the counts, and of how they are read."""
        counts = self._counts
        tables = (counts.counts, counts.lengths, counts.pairs)
        numbers = [None if table is None else table.tolist() for table in tables]
        related = [(name, table.tolist()) for name, table in counts.pair_histograms().items()]
        return sha256_of(map(repr, (counts.tokens, *numbers, *related, counts.parts, *self._described)))

    def batch(self, step: int) -> Batch:
        """The sentences of one step."""
        return self._batch(self._drawn, step * self._settings.batch_size, self._settings.batch_size)

    def held_out(self) -> list[Batch]:
        """Batches of sentences that are in no step."""
        size, count = self._settings.batch_size, self._settings.held_out
        return [self._batch(self._held, start, min(size, count - start)) for start in range(0, count, size)]

    def _batch(self, examples: PseudoExamples, first: int, count: int) -> Batch:
        return self._collate([examples[number] for number in range(first, first + count)])


def text_streams(
    batches: Sequence[MakeBatches | None],
    settings: StreamSettings,
    reading: TextReading,
    counts: Sequence[TokenCounts | None] = (),
    task: Task | None = None,
) -> list[TextStream]:
    """The text of every member, as the settings say.

    Args:
        batches: of each member, what makes loaders of its training examples; None of a checkpoint, which has none.
        settings: whose text is read, and how much.
        reading: with which tokenizer, where that is not the members' own text.
        counts: for pseudo-text, of each member what it is drawn from.
        task: what the members predict.

    Raises:
        DataError: for a file of texts that cannot be read.
        StatisticsError: for counts from which nothing can be drawn, or of another tokenizer.
    """
    if settings.text == OWN:
        return [own_text(make, settings) for make in batches if make is not None]
    assert reading.tokenizer is not None
    tokenizer = reading.tokenizer()
    if settings.text_file is not None:
        stream = _of_file(settings, tokenizer, reading.max_length, task)
        return [stream for _ in batches]
    return [PseudoStream(own, tokenizer, settings, reading.max_length, task) for own in counts if own is not None]


def own_text(batches: MakeBatches, settings: StreamSettings) -> ExampleText:
    """A member's own training examples."""
    loader: Any = batches(settings.examples, settings.batch_size, settings.text_seed, drawn_order=True)
    return ExampleText(loader.dataset, loader.collate_fn, settings)


def unlabelled(
    collate: Callable[[Sequence[Any]], Batch], tokenizer: PreTrainedTokenizerBase, task: Task | None
) -> Callable[[Sequence[Any]], Batch]:
    """What joins texts without labels into batches for models of a task.

    Of taggers, ``labels`` [texts, tokens] are then ``IGNORED`` at what the tokenizer puts around texts, at tokens that
    continue a word (of WordPiece), and at padding, as they are in labelled text: taggers learn nothing there. They are
    0 elsewhere, which says only what counts.
    """
    if task is None or task.kind != "token_labels":
        return collate
    vocabulary = vocabulary_of(tokenizer)
    around, inner = (torch.tensor(sorted(ids), dtype=torch.long) for ids in (vocabulary.separators, vocabulary.inner))

    def joined(examples: Sequence[Any]) -> Batch:
        batch = collate(examples)
        drawn = batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], around)
        begins = drawn & ~torch.isin(batch["input_ids"], inner)
        counted = torch.where(begins.any(-1, keepdim=True), begins, drawn)  # a drawn text may be continuations alone
        return {**batch, "labels": torch.where(counted, 0, IGNORED)}

    return joined


def _told_of(task: Task | None) -> tuple[str, ...]:
    """What tells batches that leave tokens out from those of earlier versions, which left out fewer."""
    return (
        ("special tokens and continuations of words left out",)
        if task is not None and task.kind == "token_labels"
        else ()
    )


def _of_file(
    settings: StreamSettings, tokenizer: PreTrainedTokenizerBase, max_length: int | None, task: Task | None
) -> ExampleText:
    texts = read_texts(settings.text_file, "method.text")
    loader: Any = plain_loader(
        texts,
        tokenizer,
        seed=settings.text_seed,
        examples=len(texts) if settings.examples is None else settings.examples,
        batch_tokens=LONGEST_BATCH,
        max_length=max_length,
    )
    examples = loader.dataset
    order = seeded_permutation(len(examples), settings.text_seed)
    collate = unlabelled(loader.collate_fn, tokenizer, task)
    return ExampleText([examples[number] for number in order], collate, settings, task)

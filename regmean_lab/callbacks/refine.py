"""Members' text for merge methods that refit layers one after the other, read on the trainer's device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from regmean_lab.callbacks.statistics import MakeBatches, tokens_in_batch
from regmean_lab.merging.refining import OWN, OWN_EXAMPLES, MemberText, RefiningMethod
from regmean_lab.modules import TaskModule
from regmean_lab.statistics.token_counts import TokenCounts
from regmean_lab.suites.plain_text import plain_loader, read_texts
from regmean_lab.suites.pseudo_text import pseudo_loader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextReading:
    """How members' text is read.

    Attributes:
        batch_size: examples a batch, for what is not batched by tokens.
        seed: which training examples are drawn.
        batch_tokens: tokens a batch; None chooses for the device.
        tokenizer: gives the tokenizer of the models, for text that is not the members' own.
        max_length: such text is cut to this many tokens; None cuts nothing.
    """

    batch_size: int = 16
    seed: int = 0
    batch_tokens: int | None = None
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None
    max_length: int | None = None


class TextSource(Protocol):
    """A member that can be loaded, and whose training examples can be read."""

    @property
    def load(self) -> Callable[[], TaskModule]:
        """Loads it as a module."""

    @property
    def batches(self) -> MakeBatches | None:
        """Makes loaders of its training examples; None of a checkpoint, which comes without."""


def member_texts(
    sources: Sequence[TextSource],
    method: RefiningMethod,
    reading: TextReading,
    device: torch.device,
    counts: Sequence[TokenCounts | None] = (),
) -> Iterator[MemberText]:
    """The text of every member, with the member as the model that reads it; one is loaded at a time.

    Args:
        sources: the members.
        method: whose text it reads, and how much of it.
        reading: how it is read.
        device: where to.
        counts: for pseudo-text, of each member the counts that it is drawn from.

    Raises:
        DataError: for a file of texts that cannot be read.
        StatisticsError: for counts from which nothing can be drawn, or of another tokenizer.
    """
    budget = tokens_in_batch(reading.batch_tokens, "gram", device)
    if reading.batch_tokens is None and method.text != OWN:  # every batch waits in a thread of its own
        budget *= max(1, method.text_examples // OWN_EXAMPLES)
    texts = None if method.text_file is None else read_texts(method.text_file, "method.text")
    for number, source in enumerate(sources):
        module = source.load().to(device)
        if method.text == OWN:
            assert source.batches is not None  # of checkpoints it is refused before any work
            loader: Iterable[Any] = source.batches(
                method.text_examples, reading.batch_size, reading.seed, batch_tokens=budget
            )
        else:
            loader = others_text(method, reading, budget, texts, counts[number] if counts else None)
        moved = (module.transfer_batch_to_device(batch, device, 0) for batch in loader)
        whole = moved if method.text == OWN else (module.with_answers(batch) for batch in moved)
        batches = [part for batch in whole for part in module.gram_batches(batch, None)]
        yield MemberText(module.model, batches, module.gram_pass, module.gram_mask)


def others_text(
    method: RefiningMethod,
    reading: TextReading,
    batch_tokens: int,
    texts: list[str] | None,
    counts: TokenCounts | None,
) -> Iterable[Any]:
    """Batches of text that is not a member's own: pseudo-text from its counts, or texts of a file.

    Args:
        method: how much of it is read.
        reading: with which tokenizer.
        batch_tokens: most tokens in a batch, padding included.
        texts: of a file.
        counts: for pseudo-text.
    """
    assert reading.tokenizer is not None
    tokenizer, examples = reading.tokenizer(), method.text_examples
    if texts is not None:
        return plain_loader(
            texts,
            tokenizer,
            seed=method.text_seed,
            examples=examples,
            batch_tokens=batch_tokens,
            max_length=reading.max_length,
        )
    assert counts is not None
    return pseudo_loader(
        counts,
        tokenizer,
        seed=method.text_seed,
        examples=examples,
        batch_tokens=batch_tokens,
        max_length=reading.max_length,
    )

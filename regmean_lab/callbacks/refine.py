"""Members' text for merge methods that refit layers one after the other, read on the trainer's device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from regmean_lab.callbacks.statistics import MakeBatches, tokens_in_batch
from regmean_lab.merging.refining import MemberText
from regmean_lab.modules import TaskModule


@dataclass(frozen=True)
class TextReading:
    """How members' text is read.

    Attributes:
        batch_size: examples a batch, for what is not batched by tokens.
        seed: which examples are drawn.
        batch_tokens: tokens a batch; None chooses for the device.
    """

    batch_size: int = 16
    seed: int = 0
    batch_tokens: int | None = None


class TextSource(Protocol):
    """A member that can be loaded, and whose training examples can be read."""

    @property
    def load(self) -> Callable[[], TaskModule]:
        """Loads it as a module."""

    @property
    def batches(self) -> MakeBatches:
        """Makes loaders of its training examples."""


def member_texts(
    sources: Sequence[TextSource], examples: int, reading: TextReading, device: torch.device
) -> Iterator[MemberText]:
    """The text of every member, with the member as the model that reads it; one is loaded at a time.

    Args:
        sources: the members.
        examples: number of training examples of each.
        reading: how they are read.
        device: where to.
    """
    budget = tokens_in_batch(reading.batch_tokens, "gram", device)
    for source in sources:
        module = source.load().to(device)
        loader = source.batches(examples, reading.batch_size, reading.seed, batch_tokens=budget)
        moved = (module.transfer_batch_to_device(batch, device, 0) for batch in loader)
        batches = [part for batch in moved for part in module.gram_batches(batch, None)]
        yield MemberText(module.model, batches, module.gram_pass, module.gram_mask)

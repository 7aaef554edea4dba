"""The data module of joint training on separate tasks: every batch comes from one task."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from regmean_lab.suites.batch_sampling import LengthGroupedBatchSampler
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.encoding import encoding_of

TaskBatch = tuple[int, dict[str, Tensor]]
"""Number of a task, and a batch of its examples."""

Collate = Callable[[Sequence[Any]], dict[str, Tensor]]


class InterleavedBatchSampler(Sampler[list[int]]):
    """All batches of several samplers in random order, so that a batch never mixes their examples.

    Every example comes once an epoch: a sampler is drawn from in proportion to its number of batches.

    Args:
        samplers: one for each task; indices are those of the tasks' examples, one task after the other.
        seed: with the epoch, determines the order of the batches.
    """

    def __init__(self, samplers: Sequence[LengthGroupedBatchSampler], seed: int) -> None:
        self.samplers = list(samplers)
        self.seed = seed

    @property
    def sampler(self) -> InterleavedBatchSampler:
        """This object: where Lightning looks for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a batch."""
        # A generator reads the epoch when the first batch is asked for, as those of the samplers do.
        batches = []
        offset = 0
        for sampler in self.samplers:
            batches += [[offset + index for index in batch] for batch in sampler]
            offset += len(sampler.lengths)
        generator = random.Random(f"tasks seed {self.seed} epoch {self.samplers[0].epoch}")
        places = [generator.random() for _ in batches]
        yield from (batches[index] for index in sorted(range(len(batches)), key=places.__getitem__))

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return sum(map(len, self.samplers))


class TaskCollator:
    """Joins examples of one task into a batch, by the task's own collator.

    Args:
        collators: one for each task, in the order of their numbers.
    """

    def __init__(self, collators: Sequence[Collate]) -> None:
        self.collators = list(collators)

    def __call__(self, batch: Sequence[tuple[int, Any]]) -> TaskBatch:
        """The task's number, and the batch."""
        (number,) = {number for number, _ in batch}
        return number, self.collators[number]([example for _, example in batch])


class MultiTaskDataModule(CorpusDataModule):
    """As :class:`~regmean_lab.suites.data_module.CorpusDataModule`, for training corpora with tasks of their own."""

    def train_dataloader(self) -> DataLoader[TaskBatch]:  # type: ignore[override]  # batches say whose they are
        """Training splits of ``train_corpora``: each batch of one of them, in another order every epoch.

        A corpus's number in a batch is its place in ``train_corpora``.
        """
        corpora = self._require_train_corpora()
        splits = [self._split(corpus, "train") for corpus in corpora]
        sampler = InterleavedBatchSampler(
            [self._sampler(split, self.batch_size, shuffle=True) for split in splits], self.seed
        )
        tasks = [self.suite.task(corpus) for corpus in corpora]
        collators = [encoding_of(task)[1](self.tokenizer, task, self.pad_to_multiple_of) for task in tasks]
        examples = [(number, example) for number, split in enumerate(splits) for example in split]
        return DataLoader(
            examples,  # type: ignore[arg-type]  # a list is a map-style dataset
            batch_sampler=self._training_order(sampler),
            collate_fn=TaskCollator(collators),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

"""Batches of examples of similar length, and one process's share of them.

All random choices here come from :meth:`random.Random.random`, as in :mod:`regmean_lab.suites.sampling`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import Sampler

LENGTH_SPREAD = 0.1
"""Largest relative change of an example's length before sorting: lets batches differ from epoch to epoch."""


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Batches of examples of similar length, which need little padding; every example exactly once an epoch.

    With ``shuffle``, each length is multiplied by a random factor between 1 − ``LENGTH_SPREAD`` and 1 +
    ``LENGTH_SPREAD``, the examples are sorted by the result, cut into batches, and the batches are put in random order.
    An incomplete batch is cut out at a random place, so that it is not always the longest sentences that share it.
    Without ``shuffle`` the examples are sorted by length, longest first, so that the largest batch comes first;
    :attr:`order` tells which example each row of the output belongs to.

    Pass it to ``DataLoader(batch_sampler=...)``. Lightning calls :meth:`set_epoch` before each epoch (it looks for it
    on ``batch_sampler.sampler``, hence :attr:`sampler`). `BatchShares` divides the batches among processes.

    Args:
        lengths: length of each example, for instance in tokens.
        batch_size: examples in a batch; the last one may hold fewer.
        seed: with the epoch, determines the order.
        shuffle: whether the order is random and changes with the epoch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    @property
    def sampler(self) -> LengthGroupedBatchSampler:
        """This object: where Lightning looks for :meth:`set_epoch`."""
        return self

    @property
    def order(self) -> list[int]:
        """Indices of the examples in the order in which this epoch's batches bring them."""
        return [index for batch in self for index in batch]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a batch."""
        # A generator reads the epoch when the first batch is asked for: in the first epoch of a run, Lightning makes
        # the iterator before it calls set_epoch.
        yield from self._shuffled() if self.shuffle else self._sorted()

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def _sorted(self) -> list[list[int]]:
        order = sorted(range(len(self.lengths)), key=lambda index: -self.lengths[index])
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _shuffled(self) -> list[list[int]]:
        # A string seed keeps seed 1 in epoch 2 apart from seed 2 in epoch 1.
        generator = random.Random(f"seed {self.seed} epoch {self.epoch}")
        keys = [
            length * (1 + LENGTH_SPREAD * (2 * noise - 1))
            for length, noise in zip(self.lengths, (generator.random() for _ in self.lengths), strict=True)
        ]
        ties = [generator.random() for _ in keys]
        order = sorted(range(len(keys)), key=lambda index: (keys[index], ties[index]))

        sizes = [self.batch_size] * (len(order) // self.batch_size)
        rest = len(order) - sum(sizes)
        if rest:
            sizes.insert(int(generator.random() * (len(sizes) + 1)), rest)
        batches = []
        start = 0
        for size in sizes:
            batches.append(order[start : start + size])
            start += size
        places = [generator.random() for _ in batches]
        return [batches[index] for index in sorted(range(len(batches)), key=places.__getitem__)]


class BatchShares(Sampler[list[int]]):
    """One process's share of every batch: every n-th example for n processes, so that shares are alike in size.

    There are as many shares as batches, none of them empty: a process for which a small batch leaves nothing takes the
    batch's first example as well. Use ``Trainer(use_distributed_sampler=False)``.

    Args:
        batches: the sampler of whole batches; its ``set_epoch`` is called where it has one.
        rank: number of the process, from 0.
        processes: number of all processes.
    """

    def __init__(self, batches: Sampler[list[int]], rank: int, processes: int) -> None:
        self.batches = batches
        self.rank = rank
        self.processes = processes

    @property
    def sampler(self) -> BatchShares:
        """This object: where Lightning looks for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        if (set_epoch := getattr(self.batches, "set_epoch", None)) is not None:
            set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a batch."""
        for batch in self.batches:
            yield batch[self.rank :: self.processes] or batch[:1]

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.batches)  # type: ignore[arg-type]  # batch samplers have a length


class RemainingBatches(Sampler[list[int]]):
    """What remains of an epoch in which some batches were trained on before; later epochs whole.

    Args:
        batches: the sampler of all batches; its ``set_epoch`` is called.
        left_out: how many of the first epoch's batches are left out.
    """

    def __init__(self, batches: Any, left_out: int) -> None:
        self.batches = batches
        self._left_out = left_out

    @property
    def sampler(self) -> RemainingBatches:
        """This object: where Lightning looks for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a batch."""
        left_out, self._left_out = self._left_out, 0
        yield from islice(self.batches, left_out, None)

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        return len(self.batches)


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """Batches with at most this many tokens, padding included: sorted by length, longest first; every example once.

    Pass it to ``DataLoader(batch_sampler=...)``.

    Args:
        lengths: length of each example in tokens.
        max_tokens: most tokens in a batch, counting each of its examples as long as the longest. An example that is
            longer makes a batch of its own.
    """

    def __init__(self, lengths: Sequence[int], max_tokens: int) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
        self.batches: list[list[int]] = []
        longest = 0
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            if self.batches and (len(self.batches[-1]) + 1) * longest <= max_tokens:
                self.batches[-1].append(index)
            else:
                self.batches.append([index])
                longest = lengths[index]

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of indices, one a batch."""
        return iter(self.batches)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.batches)

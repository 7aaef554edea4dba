"""Statistics of a member, collected by a callback under ``Trainer.test`` and kept beside the member."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from regmean_lab.callbacks.requests import StatisticsRequest, open_statistics, requests_of
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import Batch
from regmean_lab.statistics import KINDS, Collection, Kind, KindConfig, doubling_rounds, gather, rank, world_size
from regmean_lab.suites.data_module import Batches
from regmean_lab.training.processes import run_together
from regmean_lab.training.trainers import test_trainer, trainer_like
from regmean_lab.utils.memory import halved, memory_for, other_device
from regmean_lab.utils.progress import at_stage, is_listened, steps_done
from regmean_lab.zoo import ZooEntry, statistics_key

__all__ = [
    "BATCH_TOKENS_CPU",
    "Collect",
    "MakeBatches",
    "StatisticsCallback",
    "StatisticsRequest",
    "batches_of",
    "collect_for_entry",
    "measure",
    "open_statistics",
    "requests_of",
]

log = logging.getLogger(__name__)

NO_LIMIT = 2**31
"""More examples than a corpus has."""

BATCH_TOKENS_CPU = 512
"""Tokens in a batch on the CPU, where none are configured."""


class MakeBatches(Protocol):
    """Makes a loader of a member's training examples, see `CorpusDataModule.statistics_dataloader`."""

    def __call__(
        self,
        examples: int | None,
        batch_size: int,
        seed: int,
        *,
        tokens: int | None = None,
        batch_tokens: int | None = None,
        part: tuple[int, int] | None = None,
        drawn_order: bool = False,
    ) -> Batches:
        """The loader."""


class Collect(pl.Callback):
    """Collects one kind of statistics of the module that ``Trainer.test`` runs, from the batches that it runs it on.

    The trainer gives the device, the precision, the batches and the progress bar; it must not run in inference mode
    (``Trainer(inference_mode=False)``), where there are no gradients. In place of predictions, the module makes of each
    batch what the kind of statistics needs.

    Args:
        kind: the kind.
        settings: the kind's own.
        layers: the only linear layers that are needed; None for all.
        experts: whether layers of fused experts are among them.
        across_processes: the batches are this process's share, and the statistics are of the shares of all processes of
            PyTorch's default process group.

    Attributes:
        statistics: the statistics, after the test.
    """

    def __init__(
        self,
        kind: Kind,
        settings: KindConfig,
        layers: Sequence[str] | None = None,
        *,
        experts: bool = False,
        across_processes: bool = False,
    ) -> None:
        self.kind = kind
        self.settings = settings
        self.layers = layers
        self.experts = experts
        self.across_processes = across_processes
        self.statistics: Any = None
        self._collection: Collection | None = None
        self._batches = 0

    @property
    def finished(self) -> bool:
        """Whether no more batches are needed."""
        return self._collection is not None and self._collection.finished

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, with the module on its device and in its precision."""
        assert isinstance(pl_module, TaskModule)
        self._collection = self.kind.collection(pl_module, self.settings, self.layers, self.experts)
        pl_module.collection = self._collection

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Tell how many batches are done, where it is known how many there are."""
        self._batches += 1
        if is_listened() and math.isfinite(total := trainer.num_test_batches[0]):
            steps_done(self._batches, int(total))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the statistics."""
        assert self._collection is not None
        self._release(pl_module)
        if self.across_processes:
            self._collection.add_up()
        self.statistics = self._collection.compute()
        self._collection = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Release the reference to the module."""
        self._release(pl_module)

    def _release(self, module: pl.LightningModule) -> None:
        assert isinstance(module, TaskModule)
        module.collection = None


class Stream:
    """Batches of which it is not known how many there are, for a trainer.

    Args:
        batches: makes an iterable of them.
        collate_fn: what made them, which knows the tokenizer.
    """

    def __init__(self, batches: Callable[[], Iterable[Batch]], collate_fn: Any = None) -> None:
        self.batches = batches
        self.collate_fn = collate_fn

    def __iter__(self) -> Iterator[Batch]:
        """The batches."""
        yield from self.batches()


class StatisticsCallback(pl.Callback):
    """Collects statistics of the module that a trainer has just trained, or is about to test.

    Args:
        entry: the member's entry in the zoo, beside which they are kept.
        requests: which statistics, and how; those that are there already are not collected again.
        batches: makes the loader of the member's training examples.
        data_fingerprint: hash of the member's data.
    """

    def __init__(
        self, entry: ZooEntry, requests: list[StatisticsRequest], batches: MakeBatches, data_fingerprint: str
    ) -> None:
        self.entry = entry
        self.requests = requests
        self.batches = batches
        self.data_fingerprint = data_fingerprint

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Collect what is not there yet."""
        assert isinstance(pl_module, TaskModule)
        for request in self.requests:
            collect_for_entry(trainer, self.entry, request, lambda: pl_module, self.batches, self.data_fingerprint)


def collect_for_entry(
    trainer: pl.Trainer,
    entry: ZooEntry,
    request: StatisticsRequest,
    load: Callable[[], TaskModule],
    batches: MakeBatches,
    data_fingerprint: str,
) -> bool:
    """Collect statistics of a member on the trainer's device, unless they are there.

    Args:
        trainer: whose device and precision are used; not in inference mode.
        entry: the member, beside which the file is written.
        request: which statistics, and how.
        load: loads the member.
        batches: makes the loader of its training examples.
        data_fingerprint: hash of its data.

    Returns:
        Whether they were collected now.

    Raises:
        StatisticsError: for a NaN or infinity, naming the layer or parameter.
    """

    def wanted() -> bool:
        return request.find(entry, data_fingerprint) is None

    def lock() -> AbstractContextManager[None]:
        return entry.statistics_lock(request.kind, statistics_key(request.describe(data_fingerprint)))

    if world_size() > 1:
        # Lightning, or whoever else, runs this in every process: the first one decides, and all collect.
        with lock() if rank() == 0 else nullcontext():
            collected = gather(rank() == 0 and wanted())[0]
            if collected:
                _collect_and_save(trainer, entry, request, load, batches, data_fingerprint)
            gather(None)  # no process continues before the file is there
        return collected
    if not wanted():
        return False
    with lock():
        if not wanted():
            return False
        if told := request.refusal(entry):
            log.warning("%s; measured anew on the member's own text", told)
        if request.devices is None or not request.can_be_shared:
            _collect_and_save(trainer, entry, request, load, batches, data_fingerprint)
        else:
            work = partial(_collect_share, request.devices, entry, request, load, batches, data_fingerprint)
            run_together(request.devices, work)
        log.info("collected %s", request.path(entry, data_fingerprint))
        if request.settings.is_private:
            log.warning("it has spent its epsilon: each further file from the same texts spends as much again")
    return True


def _collect_and_save(
    trainer: pl.Trainer,
    entry: ZooEntry,
    request: StatisticsRequest,
    load: Callable[[], TaskModule],
    batches: MakeBatches,
    data_fingerprint: str,
) -> None:
    """Collect statistics, in a process group together with the other processes, of which the first writes the file."""
    at_stage(f"{request.kind} statistics")
    with memory_for_statistics(request, entry.name, trainer.strategy.root_device):
        statistics = measure(trainer, request, load(), batches, f"{request.kind} of {entry.name}")
        if rank() == 0:
            told = request.told_of(data_fingerprint)
            metadata: dict[str, Any] = {"settings": request.describe(told), "data_fingerprint": told}
            form, kept = request.form
            request.about.save(request.path(entry, data_fingerprint), statistics, metadata, form=form, rank=kept)


def memory_for_statistics(
    request: StatisticsRequest, model: str, device: torch.device, by_blocks: bool = False
) -> AbstractContextManager[None]:
    """Say of an error for lack of memory of what statistics were collected, and what takes less.

    Args:
        request: which statistics, and how.
        model: what people call the model.
        device: where they are collected.
        by_blocks: whether one block of the model at a time is in memory.
    """
    remedies = []
    if request.groups_matter:
        batch = f"batches of {request.batch_size} examples"
        remedies += halved("batch_size", request.batch_size, "of training in a job; statistics of batches change")
    else:
        tokens = tokens_in_batch(request.batch_tokens, request.kind, device)
        batch = f"batches of {tokens} tokens"
        remedies += halved("statistics.batch_tokens", tokens, "only roundings change")
    if request.kind == "gram" and not by_blocks:
        remedies.append("regmean-lab collect with blocks=auto (a checkpoint's Gram matrices, one block at a time)")
    return memory_for(
        f"{request.kind} statistics of {model}, on {device} in {batch}", [*remedies, *other_device(str(device))]
    )


def _collect_share(config: TrainerConfig, *arguments: Any) -> None:
    """`_collect_and_save` in one of several processes, with a separate trainer."""
    _collect_and_save(test_trainer(config), *arguments)


def measure(
    trainer: pl.Trainer, request: StatisticsRequest, module: TaskModule, batches: MakeBatches, title: str
) -> Any:
    """Statistics of a module, collected by a second trainer like the one given, which may be at work.

    In a process group the batches are divided among the processes, where that can be, and each returns the statistics
    of all of them.

    Args:
        trainer: whose device and precision are used; not in inference mode.
        request: which statistics, and how.
        module: the module; it comes back to its own device and trainer.
        batches: makes the loader of examples.
        title: of the progress bar, where the trainer has one.

    Returns:
        The statistics, of the kind's own class.

    Raises:
        StatisticsError: for a NaN or infinity, naming the layer or parameter.
    """
    shared = world_size() > 1 and request.can_be_shared
    collect = Collect(request.about, request.settings, request.layers, experts=request.experts, across_processes=shared)
    # Where a kind sets a precision of its own, the trainer's does not come into it.
    precision = None if request.settings.own_precision is None else "32-true"
    collecting = trainer_like(trainer, [collect], precision=precision, title=title if rank() == 0 else None)
    loader = batches_of(request, batches, trainer.strategy.root_device, collect)
    if shared:
        loader = _own_batches(loader)
    previous, owner = module.device, module._trainer
    try:
        collecting.test(module, loader, verbose=False)
    finally:
        module.to(previous)
        module.trainer = owner
    return collect.statistics


def tokens_in_batch(configured: int | None, kind: str, device: torch.device) -> int:
    """Tokens in a batch, padding included: as configured, or what suits a kind of statistics and a device."""
    if configured is not None:
        return configured
    return BATCH_TOKENS_CPU if device.type == "cpu" else KINDS[kind].tokens


def batches_of(
    request: StatisticsRequest, batches: MakeBatches, device: torch.device, collect: Collect | None = None
) -> Batches | Stream:
    """The batches of a request, until ``collect`` (where there is one) needs no more; with a stop rule in rounds.

    Each round is as large as all before it, of batches of like lengths. In drawn order the first batches are a random
    choice as they are, so that a stop rule needs no rounds.
    """
    size, seed, settings = request.batch_size, request.seed, request.settings
    choice: dict[str, Any] = {"tokens": settings.most_tokens}
    if request.groups_matter:
        choice["drawn_order"] = request.drawn_order
    else:
        choice["batch_tokens"] = tokens_in_batch(request.batch_tokens, request.kind, device)
    if not settings.stops_early:
        loader = batches(request.examples, size, seed, **choice)
        # A trainer takes anything else but a loader for several loaders.
        return loader if isinstance(loader, DataLoader) else Stream(partial(iter, loader))

    def until_finished() -> Iterator[Batch]:
        if request.groups_matter:
            parts: Iterable[tuple[int, int] | None] = [None]
        else:
            parts = doubling_rounds(request.examples or NO_LIMIT, settings.passes)
        for part in parts:
            loader = batches(request.examples, size, seed, part=part, **choice)
            if len(loader) == 0:
                return
            for batch in loader:
                yield batch
                if collect is not None and collect.finished:
                    return

    return Stream(until_finished)


def _own_batches(loader: Batches | Stream) -> Batches | Stream:
    """This process's share of a loader's batches, which are sorted by length: dealt out in turn, none made twice."""
    assert isinstance(loader, DataLoader)
    assert loader.batch_sampler is not None
    own = list(loader.batch_sampler)[rank() :: world_size()]
    if not own:
        # A trainer would not begin with a loader of length 0, and the others wait for the sums.
        return Stream(list, loader.collate_fn)
    return DataLoader(
        loader.dataset,
        batch_sampler=own,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
    )

"""Statistics of a member, collected on the trainer's device and kept beside the member."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from regmean_lab.callbacks.requests import StatisticsRequest, open_statistics, requests_of
from regmean_lab.config.groups import GradientGramConfig, GramConfig, TrainerConfig
from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import Batch, WrittenAnswers
from regmean_lab.statistics import (
    FisherStatistics,
    Form,
    GradientGramStatistics,
    GramStatistics,
    collect_fisher,
    collect_gradient_gram,
    collect_gram,
    doubling_rounds,
    gather,
    linear_layers,
    rank,
    save_fisher,
    save_gradient_gram,
    save_gram,
    world_size,
)
from regmean_lab.suites.data_module import Batches
from regmean_lab.training.processes import run_together
from regmean_lab.training.trainers import test_trainer
from regmean_lab.zoo import ZooEntry, statistics_key

__all__ = [
    "BATCH_TOKENS_CPU",
    "MakeBatches",
    "Statistics",
    "StatisticsCallback",
    "StatisticsRequest",
    "collect_for_entry",
    "measure",
    "open_statistics",
    "requests_of",
    "save_statistics",
]

log = logging.getLogger(__name__)

Statistics: TypeAlias = GramStatistics | GradientGramStatistics | FisherStatistics

NO_LIMIT = 2**31
"""More examples than a corpus has."""

BATCH_TOKENS_CPU = 512
BATCH_TOKENS_DEVICE = {"gram": 16384, "fisher": 4096, "gradient_gram": 4096}
"""Tokens in a batch, where none are configured. What needs gradients needs much more memory for each."""


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
            gather(None)  # nobody goes on before the file is there
        return collected
    if not wanted():
        return False
    with lock():
        if not wanted():
            return False
        if request.devices is None or not request.can_be_shared:
            _collect_and_save(trainer, entry, request, load, batches, data_fingerprint)
        else:
            work = partial(_collect_share, request.devices, entry, request, load, batches, data_fingerprint)
            run_together(request.devices, work)
        log.info("collected %s", request.path(entry, data_fingerprint))
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
    statistics = measure(trainer, request, load(), batches, f"{request.kind} of {entry.name}")
    if rank() == 0:
        metadata = {"data_fingerprint": data_fingerprint, "settings": request.describe(data_fingerprint)}
        save_statistics(request.path(entry, data_fingerprint), statistics, metadata, form=request.storage)


def _collect_share(config: TrainerConfig, *arguments: Any) -> None:
    """`_collect_and_save` in one of several processes, with a trainer of its own."""
    _collect_and_save(test_trainer(config), *arguments)


def measure(
    trainer: pl.Trainer, request: StatisticsRequest, module: TaskModule, batches: MakeBatches, title: str
) -> Statistics:
    """Statistics of a module, collected on the trainer's device.

    In a process group the batches are divided among the processes, where that can be, and each returns the statistics
    of all of them.

    Args:
        trainer: whose device and precision are used; not in inference mode.
        request: which statistics, and how.
        module: the module; it comes back to its own device.
        batches: makes the loader of examples.
        title: of the progress bar, where the trainer has one.

    Raises:
        StatisticsError: for a NaN or infinity, naming the layer or parameter.
    """
    device = trainer.strategy.root_device
    previous = module.device
    module.to(device).eval()
    if _own_precision(request) is None:
        trainer.precision_plugin.convert_module(module)  # in place; "bf16-true" wants the weights in it too
    loader = _batches(request, batches, device)
    shared = world_size() > 1 and request.can_be_shared
    if shared:
        loader = _own_batches(loader)
    shown = trainer.progress_bar_callback is not None and rank() == 0
    moved = _moved(loader, module, device, title if shown else None)
    statistics: Statistics
    with torch.inference_mode(False), _precision(request, trainer, device):
        if isinstance(request.settings, GramConfig):
            written = written_answers(request.settings)
            layers = request.layers
            if layers is None and not request.experts:
                layers = tuple(linear_layers(module.model))
            statistics = collect_gram(
                module.model,
                (part for batch in moved for part in module.gram_batches(batch, written)),
                layers=layers,
                forward=lambda model, batch: module.gram_pass(batch),
                mask=module.gram_mask,
                count_padding=request.settings.count_padding,
                extra_rows=request.settings.extra_rows,
                rows_dtype=torch.bfloat16 if request.settings.precision == "bf16" else None,
                tolerance=request.settings.tolerance,
                across_processes=shared,
            )
        elif isinstance(request.settings, GradientGramConfig):
            source: Any = request.settings.labels_from  # checked by the schema
            statistics = collect_gradient_gram(
                module.model,
                ({**batch, "labels": module.fisher_labels(batch)} for batch in moved),
                layers=request.layers,
                kind=module.likelihood,
                forward=_logits(module),
                labels_from=source,
                mask=module.gradient_mask,
                count_padding=request.settings.count_padding,
                extra_rows=request.settings.extra_rows,
                across_processes=shared,
            )
        else:
            objective = module.fisher_objective(request.settings.labels_from)
            statistics = collect_fisher(
                module.model,
                (objective.with_labels(batch) for batch in moved),
                kind=objective.likelihood,
                forward=lambda model, batch: objective.outputs(batch),
                labels_from=objective.labels_from,
                batch_mean_labels=objective.batch_mean_labels,
                across_processes=shared,
            )
    module.to(previous)
    return statistics


def save_statistics(
    path: Path, statistics: Statistics, metadata: dict[str, Any], *, form: Form = "full", rank: int | None = None
) -> None:
    """Write statistics of any kind, atomically.

    Args:
        path: the file.
        statistics: what to write.
        metadata: see :func:`regmean_lab.statistics.save_gram`.
        form: of Gram matrices of both kinds; a Fisher diagonal has one form only.
        rank: of the form ``low_rank``.
    """
    if isinstance(statistics, GramStatistics):
        if statistics.relative_change is not None:
            metadata = {**metadata, "relative_change": statistics.relative_change}
        save_gram(path, statistics, metadata, form=form, rank=rank)
    elif isinstance(statistics, GradientGramStatistics):
        save_gradient_gram(path, statistics, metadata, form=form, rank=rank)
    else:
        save_fisher(path, statistics, metadata)


def written_answers(settings: GramConfig) -> WrittenAnswers | None:
    """How a model writes answers whose layer inputs count; None if it need not."""
    if not settings.generation:
        return None
    return WrittenAnswers(settings.generated_tokens, settings.generated_padding or settings.count_padding)


def tokens_in_batch(configured: int | None, kind: str, device: torch.device) -> int:
    """Tokens in a batch, padding included: as configured, or what suits a kind of statistics and a device."""
    if configured is not None:
        return configured
    return BATCH_TOKENS_CPU if device.type == "cpu" else BATCH_TOKENS_DEVICE[kind]


def _batches(
    request: StatisticsRequest, batches: MakeBatches, device: torch.device
) -> Iterable[dict[str, torch.Tensor]]:
    """The batches of a request; with a tolerance in rounds, each as large as all before it."""
    size, seed, settings = request.batch_size, request.seed, request.settings
    tokens = settings.tokens if isinstance(settings, GramConfig) else None
    if request.groups_matter:
        # In drawn order the first batches are a random choice as they are, so that a stop rule needs no rounds.
        return batches(request.examples, size, seed, tokens=tokens, drawn_order=request.drawn_order)
    budget = tokens_in_batch(request.batch_tokens, request.kind, device)
    if not isinstance(settings, GramConfig) or settings.tolerance is None:
        return batches(request.examples, size, seed, tokens=tokens, batch_tokens=budget)

    def rounds() -> Iterator[Batches]:
        for part in doubling_rounds(request.examples or NO_LIMIT, passes=2 if settings.generation else 1):
            loader = batches(request.examples, size, seed, tokens=tokens, batch_tokens=budget, part=part)
            if len(loader) == 0:
                return
            yield loader

    return chain.from_iterable(rounds())


def _own_batches(loader: Iterable[dict[str, torch.Tensor]]) -> Batches:
    """This process's share of a loader's batches, which are sorted by length: every so-manieth, and none made twice."""
    assert isinstance(loader, DataLoader)
    assert loader.batch_sampler is not None
    return DataLoader(
        loader.dataset,
        batch_sampler=list(loader.batch_sampler)[rank() :: world_size()],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
    )


@contextmanager
def _precision(request: StatisticsRequest, trainer: pl.Trainer, device: torch.device) -> Iterator[None]:
    """The precision of the forward pass: the statistics' own, or else the trainer's."""
    own = _own_precision(request)
    if own is None:
        with trainer.precision_plugin.forward_context():
            yield
    elif own == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if own == "tf32" else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _own_precision(request: StatisticsRequest) -> str | None:
    return request.settings.precision if isinstance(request.settings, GramConfig) else None


def _logits(module: TaskModule) -> Callable[[torch.nn.Module, Batch], torch.Tensor]:
    """Runs the module's model as the module does."""

    def forward(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = module(batch)
        return logits

    return forward


def _moved(
    loader: Iterable[dict[str, torch.Tensor]], module: TaskModule, device: torch.device, title: str | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches on the device, with a progress bar in a terminal if it has a title."""
    for batch in tqdm(loader, desc=title, disable=True if title is None else None, leave=False):
        yield module.transfer_batch_to_device(batch, device, 0)

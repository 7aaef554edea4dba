"""Statistics of a member, collected on the trainer's device and kept beside the member."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import Batch
from regmean_lab.schema import FisherConfig, GramConfig, StatisticsConfig, TrainerConfig, TrainingConfig
from regmean_lab.statistics import (
    FisherFile,
    GramFile,
    collect_fisher,
    collect_gram,
    save_fisher,
    save_gram,
)
from regmean_lab.suites.data_module import Batches
from regmean_lab.zoo import ZooEntry, statistics_key

log = logging.getLogger(__name__)

MakeBatches = Callable[[int | None, int, int], Batches]
"""Makes a loader of a member's training examples: number of examples (None: all), batch size, seed."""


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics to collect, and how.

    Attributes:
        kind: ``gram`` or ``fisher``.
        settings: the kind's own settings.
        batch_size: examples a batch.
        seed: which examples are drawn.
        precision: Lightning's precision of the forward pass.
    """

    kind: str
    settings: GramConfig | FisherConfig
    batch_size: int
    seed: int
    precision: str

    @property
    def examples(self) -> int | None:
        """Number of examples, None for all."""
        batches = self.settings.batches
        return self.settings.examples if batches is None else batches * self.batch_size

    def describe(self, data_fingerprint: str) -> dict[str, Any]:
        """Everything that determines the statistics of a given member: what their file's name is a hash of."""
        description = {
            "kind": self.kind,
            **asdict(self.settings),
            "examples": self.examples,
            "seed": self.seed,
            "precision": self.precision,
            "data_fingerprint": data_fingerprint,
        }
        del description["batches"]
        if self.groups_matter:
            description["batch_size"] = self.batch_size
        return description

    @property
    def groups_matter(self) -> bool:
        """Whether the result depends on how examples are grouped into batches."""
        return isinstance(self.settings, FisherConfig) and self.settings.labels_from == "batch_mean"

    def path(self, entry: ZooEntry, data_fingerprint: str) -> Path:
        """Where the statistics of a member lie."""
        return entry.statistics_path(self.kind, statistics_key(self.describe(data_fingerprint)))


def requests_of(
    statistics: StatisticsConfig, training: TrainingConfig, trainer: TrainerConfig
) -> list[StatisticsRequest]:
    """All kinds of statistics, as configured."""
    return [
        StatisticsRequest(kind, settings, training.batch_size, statistics.seed, trainer.precision)
        for kind, settings in (("gram", statistics.gram), ("fisher", statistics.fisher))
    ]


def open_statistics(entry: ZooEntry, request: StatisticsRequest, data_fingerprint: str) -> GramFile | FisherFile:
    """Statistics of a member, read layer by layer."""
    path = request.path(entry, data_fingerprint)
    return GramFile(path) if request.kind == "gram" else FisherFile(path)


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
    description = request.describe(data_fingerprint)
    path, key = request.path(entry, data_fingerprint), statistics_key(description)
    if path.exists():
        return False
    with entry.statistics_lock(request.kind, key):
        if path.exists():
            return False
        module = load()
        device = trainer.strategy.root_device
        previous = module.device
        module.to(device).eval()
        loader = batches(request.examples, request.batch_size, request.seed)
        title = f"{request.kind} of {entry.name}"
        moved = _moved(loader, module, device, title if trainer.progress_bar_callback is not None else None)
        metadata: dict[str, Any] = {"data_fingerprint": data_fingerprint, "settings": description}
        with torch.inference_mode(False), trainer.precision_plugin.forward_context():
            if isinstance(request.settings, GramConfig):
                generation = request.settings.generation
                gram = collect_gram(
                    module.model,
                    (part for batch in moved for part in module.gram_batches(batch, generation)),
                    forward=lambda model, batch: module.gram_pass(batch),
                    mask=module.gram_mask,
                    count_padding=request.settings.count_padding,
                    extra_rows=request.settings.extra_rows,
                )
                save_gram(path, gram, metadata)
            else:
                labels_from: Any = request.settings.labels_from  # checked by the schema
                fisher = collect_fisher(
                    module.model,
                    ({**batch, "labels": module.fisher_labels(batch)} for batch in moved),
                    kind=module.likelihood,
                    forward=_logits(module),
                    labels_from=labels_from,
                )
                save_fisher(path, fisher, metadata)
        module.to(previous)
        log.info("collected %s", path)
    return True


def _logits(module: TaskModule) -> Callable[[torch.nn.Module, Batch], torch.Tensor]:
    """Runs the module's model as the module does."""

    def forward(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = module(batch)
        return logits

    return forward


def _moved(
    loader: Batches, module: TaskModule, device: torch.device, title: str | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches on the device, with a progress bar in a terminal if it has a title."""
    for batch in tqdm(loader, desc=title, disable=True if title is None else None, leave=False):
        yield module.transfer_batch_to_device(batch, device, 0)

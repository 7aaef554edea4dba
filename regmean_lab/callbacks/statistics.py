"""Statistics of a member, collected on the trainer's device and kept beside the member."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import Batch
from regmean_lab.schema_groups import (
    FisherConfig,
    GradientGramConfig,
    GramConfig,
    StatisticsConfig,
    TrainerConfig,
    TrainingConfig,
)
from regmean_lab.statistics import (
    FisherFile,
    GradientGramFile,
    GramFile,
    StatisticsError,
    collect_fisher,
    collect_gradient_gram,
    collect_gram,
    doubling_rounds,
    save_fisher,
    save_gradient_gram,
    save_gram,
)
from regmean_lab.suites.data_module import Batches
from regmean_lab.zoo import ZooEntry, statistics_key

log = logging.getLogger(__name__)

NO_LIMIT = 2**31
"""More examples than a corpus has."""

BATCH_TOKENS_CPU = 512
BATCH_TOKENS_DEVICE = {"gram": 16384, "fisher": 4096, "gradient_gram": 4096}
"""Tokens in a batch, where none are configured. What needs gradients needs much more memory for each."""

LIGHTNING_NAMES = {"float32": "32-true"}
"""What `StatisticsRequest.precision` calls settings of a precision of its own, where Lightning has a name for them."""


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
    ) -> Batches:
        """The loader."""


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics to collect, and how.

    Attributes:
        kind: ``gram``, ``fisher`` or ``gradient_gram``.
        settings: the kind's own settings.
        batch_size: examples a batch.
        seed: which examples are drawn.
        precision: the trainer's precision.
        batch_tokens: tokens a batch, where batches do not matter; None chooses for the device.
        layers: for ``gram``, the only linear layers that are needed; None for all.
    """

    kind: str
    settings: GramConfig | FisherConfig | GradientGramConfig
    batch_size: int
    seed: int
    precision: str
    batch_tokens: int | None = None
    layers: tuple[str, ...] | None = None

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
        if isinstance(self.settings, GramConfig):
            if (own := self.settings.precision) is not None:
                description["precision"] = LIGHTNING_NAMES.get(own, own)
            # What is not asked for is left out, so that files keep the names that they had before there was the choice.
            for name in ("tokens", "tolerance"):
                if description[name] is None:
                    del description[name]
            if self.layers is not None:
                description["layers"] = list(self.layers)
        if self.groups_matter:
            description["batch_size"] = self.batch_size
        return description

    @property
    def groups_matter(self) -> bool:
        """Whether the result depends on how examples are grouped into batches."""
        return isinstance(self.settings, FisherConfig) and self.settings.labels_from == "batch_mean"

    def path(self, entry: ZooEntry, data_fingerprint: str) -> Path:
        """Where the statistics of a member lie, if they are collected for this request."""
        return entry.statistics_path(self.kind, statistics_key(self.describe(data_fingerprint)))

    def find(self, entry: ZooEntry, data_fingerprint: str) -> Path | None:
        """A file that serves this request: its own, or one that differs only in having more layers."""
        path = self.path(entry, data_fingerprint)
        if path.exists():
            return path
        if self.layers is None:
            return None
        complete = replace(self, layers=None)
        description = complete.describe(data_fingerprint)
        others = [other for other in entry.statistics_files() if other.name.startswith(f"{self.kind}-")]
        for other in (complete.path(entry, data_fingerprint), *others):
            try:
                with GramFile(other) as file:
                    settings = {key: value for key, value in file.metadata["settings"].items() if key != "layers"}
                    if settings == description and set(self.layers) <= set(file.layers):
                        return other
            except StatisticsError:
                continue  # absent, damaged, or of a format that this program does not read: no use here
        return None


def requests_of(
    statistics: StatisticsConfig, training: TrainingConfig, trainer: TrainerConfig
) -> list[StatisticsRequest]:
    """All kinds of statistics, as configured."""
    return [
        StatisticsRequest(
            kind, settings, training.batch_size, statistics.seed, trainer.precision, statistics.batch_tokens
        )
        for kind, settings in (
            ("gram", statistics.gram),
            ("fisher", statistics.fisher),
            ("gradient_gram", statistics.gradient_gram),
        )
    ]


def open_statistics(entry: ZooEntry, request: StatisticsRequest, data_fingerprint: str) -> GramFile | FisherFile:
    """Statistics of a member, read layer by layer."""
    path = request.find(entry, data_fingerprint) or request.path(entry, data_fingerprint)
    if request.kind == "fisher":
        return FisherFile(path)
    return GramFile(path) if request.kind == "gram" else GradientGramFile(path)


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
    if request.find(entry, data_fingerprint) is not None:
        return False
    with entry.statistics_lock(request.kind, key):
        if request.find(entry, data_fingerprint) is not None:
            return False
        module = load()
        device = trainer.strategy.root_device
        previous = module.device
        module.to(device).eval()
        loader = _batches(request, batches, device)
        title = f"{request.kind} of {entry.name}"
        moved = _moved(loader, module, device, title if trainer.progress_bar_callback is not None else None)
        metadata: dict[str, Any] = {"data_fingerprint": data_fingerprint, "settings": description}
        with torch.inference_mode(False), _precision(request, trainer, device):
            if isinstance(request.settings, GramConfig):
                generation = request.settings.generation
                gram = collect_gram(
                    module.model,
                    (part for batch in moved for part in module.gram_batches(batch, generation)),
                    layers=request.layers,
                    forward=lambda model, batch: module.gram_pass(batch),
                    mask=module.gram_mask,
                    count_padding=request.settings.count_padding,
                    extra_rows=request.settings.extra_rows,
                    rows_dtype=torch.bfloat16 if request.settings.precision == "bf16" else None,
                    tolerance=request.settings.tolerance,
                )
                if gram.relative_change is not None:
                    metadata["relative_change"] = gram.relative_change
                save_gram(path, gram, metadata)
            elif isinstance(request.settings, GradientGramConfig):
                source: Any = request.settings.labels_from  # checked by the schema
                gradient_gram = collect_gradient_gram(
                    module.model,
                    ({**batch, "labels": module.fisher_labels(batch)} for batch in moved),
                    kind=module.likelihood,
                    forward=_logits(module),
                    labels_from=source,
                    mask=module.gradient_mask,
                    count_padding=request.settings.count_padding,
                    extra_rows=request.settings.extra_rows,
                )
                save_gradient_gram(path, gradient_gram, metadata)
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


def _batches(
    request: StatisticsRequest, batches: MakeBatches, device: torch.device
) -> Iterable[dict[str, torch.Tensor]]:
    """The batches of a request; with a tolerance in rounds, each as large as all before it."""
    if request.groups_matter:
        return batches(request.examples, request.batch_size, request.seed)
    budget = request.batch_tokens
    if budget is None:
        budget = BATCH_TOKENS_CPU if device.type == "cpu" else BATCH_TOKENS_DEVICE[request.kind]
    size, seed, settings = request.batch_size, request.seed, request.settings
    tokens = settings.tokens if isinstance(settings, GramConfig) else None
    if not isinstance(settings, GramConfig) or settings.tolerance is None:
        return batches(request.examples, size, seed, tokens=tokens, batch_tokens=budget)

    def rounds() -> Iterator[Batches]:
        for part in doubling_rounds(request.examples or NO_LIMIT):
            loader = batches(request.examples, size, seed, tokens=tokens, batch_tokens=budget, part=part)
            if len(loader) == 0:
                return
            yield loader

    return chain.from_iterable(rounds())


@contextmanager
def _precision(request: StatisticsRequest, trainer: pl.Trainer, device: torch.device) -> Iterator[None]:
    """The precision of the forward pass: the statistics' own, or else the trainer's."""
    own = request.settings.precision if isinstance(request.settings, GramConfig) else None
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

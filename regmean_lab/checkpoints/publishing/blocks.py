"""Gram matrices of a checkpoint that need not fit into memory: one block of it is read and measured at a time."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from regmean_lab.callbacks.requests import StatisticsRequest
from regmean_lab.callbacks.statistics import batches_of
from regmean_lab.checkpoints.publishing.block_choice import KIND
from regmean_lab.checkpoints.publishing.corpus import CORPUS
from regmean_lab.checkpoints.publishing.layers import wanted_layers
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.modules import TaskModule
from regmean_lab.statistics import (
    GramConfig,
    GramStatistics,
    HeldOutputs,
    MatrixWriter,
    ReadWeight,
    StatisticsError,
    gram_by_blocks,
)
from regmean_lab.statistics.block_passes import find_blocks
from regmean_lab.statistics.kinds.gram import own_precision
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.training.processes import first_device

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Precision:
    """In which precision a model is run.

    Attributes:
        weights: dtype of its parameters.
        autocast: what products are computed in where that is narrower than the parameters; None as they are.
    """

    weights: torch.dtype
    autocast: torch.dtype | None = None


PRECISIONS = {
    "32-true": Precision(torch.float32),
    "64-true": Precision(torch.float64),
    "bf16-true": Precision(torch.bfloat16),
    "16-true": Precision(torch.float16),
    "bf16-mixed": Precision(torch.float32, torch.bfloat16),
    "16-mixed": Precision(torch.float32, torch.float16),
}
"""Lightning's names of precisions."""


@dataclass(frozen=True)
class BlockCollection:
    """How a checkpoint is measured block by block.

    Attributes:
        module: the model, its weights on the device ``meta``.
        read: reads them.
        trainer: device, precision, and whether there are progress bars.
        memory: most bytes of activations that are held in main memory.
        folder: where more of them are written meanwhile.
    """

    module: TaskModule
    read: ReadWeight
    trainer: TrainerConfig
    memory: int
    folder: Path


@dataclass
class WrittenMatrices:
    """What was written of a model's Gram matrices, as `GramStatistics` without the matrices.

    Attributes:
        shared: for every layer the leading layer whose matrix is also its own.
        rows: by leading layer, the number of rows.
        widths: by leading layer, the number of columns.
        unseen: of experts that no token was sent to, by layer, the number of inputs.
        examples: number of examples.
        batches: number of batches.
    """

    shared: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    examples: int = 0
    batches: int = 0

    def header(self, layers: Sequence[str]) -> dict[str, object]:
        """What a file tells of its matrices, layers in the order of the model."""
        order = {layer: place for place, layer in enumerate(layers)}
        unseen = {"unseen": _in_order(self.unseen, order)} if self.unseen else {}
        return {
            "kind": KIND,
            "rows": _in_order(self.rows, order),
            "shared": _in_order(self.shared, order),
            "examples": self.examples,
            "batches": self.batches,
            **unseen,
        }


def write_by_blocks(
    request: StatisticsRequest,
    collection: BlockCollection,
    data: CorpusDataModule,
    writer: MatrixWriter,
    check: Callable[[Mapping[str, int], Mapping[str, int]], None],
) -> WrittenMatrices:
    """Measure Gram matrices block by block, and write each block's as soon as it is finished.

    Args:
        request: which, and how.
        collection: the model, and where it is run.
        data: its examples.
        writer: where they are written; it is left to be finished.
        check: raises for numbers of rows, by leading layer, that are too few for its number of columns.

    Raises:
        StatisticsError: as `gram_by_blocks` does.
    """
    module, trainer, settings = collection.module, collection.trainer, request.settings
    assert isinstance(settings, GramConfig)
    device = first_device(trainer.accelerator)
    precision = PRECISIONS["32-true" if settings.own_precision is not None else request.precision]
    loader = batches_of(request, partial(data.statistics_dataloader, CORPUS), device)
    batches = [part for batch in loader for part in module.gram_batches(batch, None)]
    done = WrittenMatrices()

    def forward(model: nn.Module, batch: Any) -> None:
        with _autocast(device, precision), own_precision(settings.precision, device):
            module.gram_pass(batch)

    with _holding(collection) as held:
        finished = gram_by_blocks(
            module.model,
            batches,
            held,
            read=collection.read,
            device=device,
            weights_dtype=precision.weights,
            layers=wanted_layers(request, module.model),
            forward=forward,
            mask=module.gram_mask,
            count_padding=settings.count_padding,
            extra_rows=settings.extra_rows,
            rows_dtype=torch.bfloat16 if settings.precision == "bf16" else None,
        )
        count = len(find_blocks(module.model)) + 1
        for part in tqdm(finished, f"{KIND}, block by block", count, disable=None if trainer.progress_bar else True):
            if part.statistics is not None:
                _write(part.statistics, writer, done, check)
    return done


def _write(
    statistics: GramStatistics,
    writer: MatrixWriter,
    done: WrittenMatrices,
    check: Callable[[Mapping[str, int], Mapping[str, int]], None],
) -> None:
    """Write the matrices of one block, each let go of when it is written."""
    widths = {leader: len(matrix) for leader, matrix in statistics.matrices.items()}
    check(statistics.rows, widths)
    for leader in list(statistics.matrices):
        writer.add(leader, statistics.matrices.pop(leader))
    done.shared |= statistics.shared
    done.rows |= statistics.rows
    done.widths |= widths
    done.unseen |= statistics.unseen
    done.examples, done.batches = statistics.examples, statistics.batches


def _autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    if precision.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, precision.autocast)


@contextmanager
def _holding(collection: BlockCollection) -> Iterator[HeldOutputs]:
    """What holds activations, in a folder that is gone afterwards."""
    try:
        collection.folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".activations-", dir=collection.folder)
    except OSError as error:
        raise StatisticsError(f"{collection.folder}: activations cannot be held there ({error.strerror})") from error
    with temporary as folder:
        yield HeldOutputs(Path(folder), collection.memory)


def _in_order(values: Mapping[str, Any], order: Mapping[str, int]) -> dict[str, Any]:
    return {layer: values[layer] for layer in sorted(values, key=order.__getitem__)}

"""Gram matrices of a checkpoint that need not fit into memory: one block of it is read and measured at a time."""

from __future__ import annotations

import logging
import math
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

from regmean_lab.callbacks.statistics import StatisticsRequest, batches_of
from regmean_lab.checkpoints.publishing.corpus import CORPUS
from regmean_lab.checkpoints.publishing.layers import wanted_layers
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.models.headers import StoredTensor
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
from regmean_lab.tracking.environment import available_memory_bytes
from regmean_lab.training.processes import first_device
from regmean_lab.utils.quantities import byte_size

KIND = "gram"
"""The only kind of statistics that can be collected so. The others need gradients, which come from a model's end: a
backward pass would have to go through all blocks again, last to first, with what each was given held for all of them.
"""

CHOICES = {"auto": None, "true": True, "false": False}
"""Values of the setting ``blocks``, as YAML has them in small letters, and what they decide."""

FLOAT_BYTES = 4
SHARE = 0.9
"""How much of the free memory a whole model and its sums may take."""

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


def choice_problem(value: Any) -> str | None:
    """Why a value of ``blocks`` is none."""
    if str(value).lower() in CHOICES:
        return None
    return f"blocks: expected one of {', '.join(CHOICES)}, got {value!r}"


def whole_model_bytes(tensors: Mapping[str, StoredTensor]) -> tuple[int, int]:
    """Bytes of a model's weights in float32, and of all its Gram matrices at most, from the headers of its files.

    Matrices are counted for every tensor of two dimensions or more, as if no two layers shared their inputs: what is
    told is up to twice as much as it comes to.
    """
    weights = sum(math.prod(tensor.shape) for tensor in tensors.values())
    wide = [tensor.shape for tensor in tensors.values() if len(tensor.shape) >= 2]
    return FLOAT_BYTES * weights, FLOAT_BYTES * sum(math.prod(shape[:-2]) * shape[-1] ** 2 for shape in wide)


def is_by_blocks(value: Any, tensors: Mapping[str, StoredTensor], trainer: TrainerConfig) -> bool:
    """Whether a model is collected block by block: as configured, or if there is no room for all of it.

    Args:
        value: of the setting ``blocks``.
        tensors: of its files.
        trainer: says on which device.
    """
    chosen = CHOICES[str(value).lower()]
    if chosen is not None:
        return chosen
    weights, sums = whole_model_bytes(tensors)
    device = first_device(trainer.accelerator)
    # What is on a GPU is in main memory before (weights) and after (sums).
    places = [(torch.device("cpu"), max(weights, sums))] if device.type == "cuda" else []
    for place, needed in [(device, weights + sums), *places]:
        free = available_memory_bytes(place)
        if free is not None and needed > SHARE * free:
            log.info(
                "the whole model would take %s (weights) and up to %s (sums), and %s are free (%s): collected block by "
                "block; blocks=false collects from the whole model",
                byte_size(weights),
                byte_size(sums),
                byte_size(free),
                place.type,
            )
            return True
    return False


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

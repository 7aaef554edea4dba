"""Gram matrices of layers' inputs: collection and files.

What they are: :mod:`regmean_lab.statistics.gram`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from regmean_lab.statistics.batches import (
    Batch,
    attention_mask,
    call_model,
    count_examples,
    device_of,
    evaluation_mode,
    move_batch,
)
from regmean_lab.statistics.convergence import ConvergenceRule
from regmean_lab.statistics.errors import StatisticsError
from regmean_lab.statistics.forms import Form
from regmean_lab.statistics.gram import GramAccumulator, GramStatistics
from regmean_lab.statistics.kinds.base import Collection, Kind, TaskModel, register_kind
from regmean_lab.statistics.layers import linear_layers
from regmean_lab.statistics.rows import Mask
from regmean_lab.statistics.settings import GramConfig
from regmean_lab.statistics.store import Json, MatrixFile, write_matrices


class GramFile(MatrixFile):
    """A file of Gram matrices ``[in, in]``, see `MatrixFile`; layers with the same inputs share one."""

    kind = "gram"


class GramCollection(Collection):
    """Gram matrices of a module's layers, over the batches that its task says count."""

    accumulator: GramAccumulator

    def __init__(
        self, module: TaskModel, settings: GramConfig, layers: Sequence[str] | None = None, experts: bool = False
    ) -> None:
        if layers is None and not experts:
            layers = tuple(linear_layers(module.model))
        accumulator = GramAccumulator(
            module.model,
            layers,
            count_padding=settings.count_padding,
            extra_rows=settings.extra_rows,
            rows_dtype=torch.bfloat16 if settings.precision == "bf16" else None,
        )
        super().__init__(module, accumulator)
        self._settings = settings
        self._rule = None if settings.tolerance is None else ConvergenceRule(settings.tolerance)

    def add(self, batch: Batch) -> None:
        """Count the batch, and generated tokens if enabled, until the stopping rule fires."""
        if self.finished:
            return
        module = self.module
        with own_precision(self._settings.precision, device_of(module.model)), self.accumulator:
            for part in module.gram_batches(batch, self._settings.written):
                with self.accumulator.batch(mask=module.gram_mask(part), examples=count_examples(part)):
                    module.gram_pass(part)
                if self._rule is not None and self._rule.converged(self.accumulator):
                    self.finished = True
                    return

    def compute(self) -> GramStatistics:
        """The statistics, with the change at the rule's last comparison; their memory is that of the sums."""
        statistics = self.accumulator.compute(release=True)
        return statistics if self._rule is None else replace(statistics, relative_change=self._rule.change)


@register_kind
class GramKind(Kind):
    """Gram matrices of layers' inputs."""

    name = "gram"
    of = "inputs"
    settings = GramConfig
    file = GramFile
    title = "Gram matrices of linear layers' inputs (`xᵀx`, mean over rows): RegMean"
    method = "regmean"
    reveals = (
        "Gram matrices are sums over all rows: with more rows than columns they determine the rows only up to a "
        "rotation{rows}. They do tell what the data are like on the whole, and somebody who has the data set, or "
        "guesses it, can confirm that it is the one."
    )
    tokens = 16384  # passes without gradients take little memory
    place = 1

    def collection(
        self, module: TaskModel, settings: Any, layers: Sequence[str] | None, experts: bool
    ) -> GramCollection:
        """See :class:`Kind`."""
        return GramCollection(module, settings, layers, experts)

    def save(
        self,
        path: str | os.PathLike[str],
        statistics: GramStatistics,
        metadata: Mapping[str, Json],
        *,
        form: Form = "full",
        rank: int | None = None,
    ) -> None:
        """As `save_gram` does, with the change at the last comparison of a stop rule."""
        if statistics.relative_change is not None:
            metadata = {**metadata, "relative_change": statistics.relative_change}
        save_gram(path, statistics, metadata, form=form, rank=rank)

    def load(self, file: GramFile) -> GramStatistics:
        """All matrices of a file."""
        matrices = {layer: file.matrix(layer) for layer in file.rows}
        change = file.metadata.get("relative_change")
        return GramStatistics(matrices, file.shared, file.rows, file.examples, file.batches, change, file.unseen)


def save_gram(
    path: str | os.PathLike[str],
    statistics: GramStatistics,
    metadata: Mapping[str, Json],
    *,
    form: Form = "full",
    rank: int | None = None,
) -> None:
    """Write Gram matrices to ``path``, atomically.

    Args:
        path: the file; an existing one is replaced.
        statistics: what to write.
        metadata: ``data_fingerprint`` (a string, empty by default), ``settings`` (by default empty) and anything else
            worth keeping.
        form: in which form, see `regmean_lab.statistics.forms`: "full", "packed", "diagonal" or "low_rank".
        rank: of "low_rank".

    Raises:
        StatisticsError: if ``metadata`` uses a name of the format, or holds something that JSON does not; for another
            form, or a rank where there is none.
    """
    header: dict[str, object] = {
        "kind": GramFile.kind,
        "rows": statistics.rows,
        "shared": statistics.shared,
        "examples": statistics.examples,
        "batches": statistics.batches,
    }
    if statistics.unseen:
        header["unseen"] = statistics.unseen
    write_matrices(path, statistics.matrices, header, metadata, form=form, rank=rank)


def collect_gram(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    layers: Sequence[str] | None = None,
    forward: Callable[[nn.Module, Batch], Any] = call_model,
    mask: Callable[[Batch], Mask] = attention_mask,
    count_padding: bool = False,
    extra_rows: bool = False,
    dtype: torch.dtype = torch.float32,
    rows_dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    across_processes: bool = False,
) -> GramStatistics:
    """Gram matrices of the inputs of a model's linear layers.

    The model is run in evaluation mode without gradients; its training flags are restored.

    Args:
        model: the model.
        batches: mappings from argument name to tensor, the examples first; moved to the model's device.
        layers: names of linear layers as in ``model.named_modules()``; None for all.
        forward: runs the model on a batch; by default calls it with all of the batch but "labels".
        mask: tells which tokens of a batch are real; by default its "attention_mask". See `Mask` for models with more
            than one mask, such as encoder-decoders.
        count_padding: count the rows of padding tokens too.
        extra_rows: count also inputs that do not come from the examples, see `RowSelection`.
        dtype: of the sums: ``torch.float32`` or ``torch.float64``.
        rows_dtype: of the rows that are multiplied, see `GramAccumulator`; for a faster forward pass as well, call this
            under ``torch.autocast``.
        tolerance: stop when no matrix has changed by more than this, relative in the Frobenius norm, since there were
            half as many examples (see `ConvergenceRule`); the batches must then bring examples in random order. None
            uses all batches.
        across_processes: the batches are this process's share, and the statistics are of the shares of all processes of
            PyTorch's default process group, which must all call this. Not with a tolerance.

    Returns:
        The statistics, on the CPU.

    Raises:
        StatisticsError: see `GramAccumulator`.
    """
    if tolerance is not None and across_processes:
        raise StatisticsError("tolerance: collection with a stop rule is not divided among processes")
    accumulator = GramAccumulator(
        model, layers, count_padding=count_padding, extra_rows=extra_rows, dtype=dtype, rows_dtype=rows_dtype
    )
    rule = None if tolerance is None else ConvergenceRule(tolerance)
    device = device_of(model)
    with evaluation_mode(model), torch.no_grad(), accumulator:
        for batch in batches:
            moved = move_batch(batch, device)
            with accumulator.batch(mask=mask(moved), examples=count_examples(moved)):
                forward(model, moved)
            if rule is not None and rule.converged(accumulator):
                break
    if across_processes:
        accumulator.add_up()
    statistics = accumulator.compute(release=True)
    return statistics if rule is None else replace(statistics, relative_change=rule.change)


@contextmanager
def own_precision(precision: str | None, device: torch.device) -> Iterator[None]:
    """The precision of passes: ``bf16`` by autocast, products of matrices in ``tf32`` or ``float32``; None as it is."""
    if precision is None:
        yield
    elif precision == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

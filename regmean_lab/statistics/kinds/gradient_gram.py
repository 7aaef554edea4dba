"""Gram matrices of the gradients at layers' outputs: collection and files.

What they are: :mod:`regmean_lab.statistics.gradient_gram`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from regmean_lab.statistics.batches import (
    LABELS,
    Batch,
    Forward,
    attention_mask,
    default_forward,
    device_of,
    evaluation_mode,
    move_batch,
)
from regmean_lab.statistics.forms import Form
from regmean_lab.statistics.gradient_gram import GradientGramAccumulator, GradientGramStatistics
from regmean_lab.statistics.kinds.base import Collection, Kind, ModelSize, TaskModel, register_kind
from regmean_lab.statistics.kinds.gram import GramKind
from regmean_lab.statistics.likelihood import Likelihood
from regmean_lab.statistics.rows import Mask
from regmean_lab.statistics.settings import GradientGramConfig, LabelSource
from regmean_lab.statistics.store import Json, MatrixFile, write_matrices


class GradientGramFile(MatrixFile):
    """A file of gradient Gram matrices ``[out, out]``, see `MatrixFile`; no layer shares another's."""

    kind = "gradient_gram"


class GradientGramCollection(Collection):
    """Gradient Gram matrices of a module's layers."""

    def __init__(self, module: TaskModel, settings: GradientGramConfig, layers: Sequence[str] | None = None) -> None:
        source: Any = settings.labels_from  # checked with the settings
        accumulator = GradientGramAccumulator(
            module.model,
            layers,
            labels_from=source,
            kind=module.likelihood,
            forward=lambda model, batch: module(batch),
            count_padding=settings.count_padding,
            extra_rows=settings.extra_rows,
        )
        super().__init__(module, accumulator)

    def add(self, batch: Batch) -> None:
        """Count the batch with the labels of its task."""
        labels = self.module.fisher_labels(batch)
        labelled = {**batch, LABELS: labels}
        assert isinstance(self.accumulator, GradientGramAccumulator)
        self.accumulator.add(labelled, labels, self.module.gradient_mask(labelled))


@register_kind
class GradientGramKind(Kind):
    """Gram matrices of the gradients at layers' outputs."""

    name = "gradient_gram"
    of = "outputs"
    settings = GradientGramConfig
    file = GradientGramFile
    title = "Gram matrices of the gradients at linear layers' outputs: MaTS"
    method = "mats"
    reveals = GramKind.reveals
    forward_rows = False
    place = 3

    def collection(
        self, module: TaskModel, settings: Any, layers: Sequence[str] | None, experts: bool
    ) -> GradientGramCollection:
        """See :class:`Kind`; by default all layers but very wide ones, and no experts."""
        return GradientGramCollection(module, settings, layers)

    def save(
        self,
        path: str | os.PathLike[str],
        statistics: GradientGramStatistics,
        metadata: Mapping[str, Json],
        *,
        form: Form = "full",
        rank: int | None = None,
    ) -> None:
        """As `save_gradient_gram` does."""
        save_gradient_gram(path, statistics, metadata, form=form, rank=rank)

    def load(self, file: GradientGramFile) -> GradientGramStatistics:
        """All matrices of a file."""
        matrices = {layer: file.matrix(layer) for layer in file.rows}
        labels = {name: file.metadata[name] for name in ("labels_from", "likelihood")}
        return GradientGramStatistics(matrices, file.rows, file.examples, file.batches, **labels)

    def operations(self, size: ModelSize, labels: int) -> int:
        """For each label the half of a backward pass that finds gradients of outputs, and half of each product."""
        return labels * (2 * size.multiplied + size.output_entries)


def save_gradient_gram(
    path: str | os.PathLike[str],
    statistics: GradientGramStatistics,
    metadata: Mapping[str, Json],
    *,
    form: Form = "full",
    rank: int | None = None,
) -> None:
    """Write gradient Gram matrices to ``path``, atomically; arguments and errors as for `save_gram`."""
    header: dict[str, object] = {
        "kind": GradientGramFile.kind,
        **statistics.header(),
        "labels_from": statistics.labels_from,
        "likelihood": statistics.likelihood,
    }
    write_matrices(path, statistics.matrices, header, metadata, form=form, rank=rank)


def collect_gradient_gram(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    layers: Sequence[str] | None = None,
    labels_from: LabelSource = "expectation",
    kind: Likelihood = "categorical",
    forward: Forward = default_forward,
    mask: Callable[[Batch], Mask] = attention_mask,
    count_padding: bool = False,
    extra_rows: bool = False,
    dtype: torch.dtype = torch.float32,
    across_processes: bool = False,
) -> GradientGramStatistics:
    """Gram matrices of the gradients at the outputs of a model's linear layers.

    The model is run in evaluation mode; its training flags are restored, and its gradients are left alone.

    Args:
        model: the model.
        batches: mappings from argument name to tensor, the examples first, with the labels under "labels" where the
            variant needs them or some are not annotated; moved to the model's device.
        layers: names of linear layers as in ``model.named_modules()``; None for all but very wide ones.
        labels_from: where the labels come from, see `LabelSource`.
        kind: the distribution of the labels, see `Likelihood`.
        forward: runs the model on a batch and returns the logits; by default calls it with all of the batch but
            "labels".
        mask: tells which tokens of a batch are real; by default its "attention_mask". See `Mask`.
        count_padding: count the rows of padding tokens too.
        extra_rows: count also outputs that do not come from the examples, see `RowSelection`.
        dtype: of the sums: ``torch.float32`` or ``torch.float64``.
        across_processes: the batches are this process's share, and the statistics are of the shares of all processes of
            PyTorch's default process group, which must all call this.

    Returns:
        The statistics, on the CPU.

    Raises:
        StatisticsError: see `GradientGramAccumulator`.
    """
    accumulator = GradientGramAccumulator(
        model,
        layers,
        labels_from=labels_from,
        kind=kind,
        forward=forward,
        count_padding=count_padding,
        extra_rows=extra_rows,
        dtype=dtype,
    )
    device = device_of(model)
    with evaluation_mode(model):
        for batch in batches:
            moved = move_batch(batch, device)
            accumulator.add(moved, moved.get(LABELS), mask(moved))
    if across_processes:
        accumulator.add_up()
    return accumulator.compute()

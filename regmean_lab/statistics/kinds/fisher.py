"""Diagonal Fisher information: collection and files. What it is: :mod:`regmean_lab.statistics.fisher`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regmean_lab.statistics.batches import LABELS, Batch, Forward, default_forward, evaluation_mode
from regmean_lab.statistics.fisher import FisherAccumulator, FisherLabels, FisherStatistics
from regmean_lab.statistics.forms import Form
from regmean_lab.statistics.kinds.base import Collection, Kind, ModelSize, TaskModel, register_kind
from regmean_lab.statistics.likelihood import Likelihood
from regmean_lab.statistics.settings import FisherConfig
from regmean_lab.statistics.store import Json, StatisticsFile, write_statistics


class FisherFile(StatisticsFile):
    """A file of a Fisher diagonal, see `StatisticsFile`; a tensor is read when it is asked for."""

    kind = "fisher"

    @property
    def parameters(self) -> list[str]:
        """The names of all parameters, tied ones included."""
        return list(self.shared)

    def diagonal(self, parameter: str) -> Tensor:
        """The Fisher diagonal of ``parameter``: float32, of its shape.

        Raises:
            StatisticsError: if the file has none for this parameter.
        """
        return self.read(parameter)


class FisherCollection(Collection):
    """The Fisher diagonal of a module, of what its task says that it is of."""

    def __init__(self, module: TaskModel, settings: FisherConfig) -> None:
        self._objective = objective = module.fisher_objective(settings.labels_from)
        accumulator = FisherAccumulator(
            module.model,
            labels_from=objective.labels_from,
            kind=objective.likelihood,
            forward=lambda model, batch: objective.outputs(batch),
            batch_mean_labels=objective.batch_mean_labels,
        )
        super().__init__(module, accumulator)

    def add(self, batch: Batch) -> None:
        """Count the batch with the labels that its task gives it."""
        labelled = self._objective.with_labels(batch)
        assert isinstance(self.accumulator, FisherAccumulator)
        self.accumulator.add(labelled, labelled.get(LABELS))


@register_kind
class FisherKind(Kind):
    """Diagonal Fisher information of the parameters."""

    name = "fisher"
    of = "parameters"
    settings = FisherConfig
    file = FisherFile
    title = "diagonal Fisher information of the parameters: Fisher merging"
    method = "fisher"
    reveals = (
        "Fisher information of an embedding is zero for exactly the tokens that never occur: it tells the vocabulary "
        "of the examples."
    )
    place = 2

    def collection(
        self, module: TaskModel, settings: Any, layers: Sequence[str] | None, experts: bool
    ) -> FisherCollection:
        """See :class:`Kind`; all trainable parameters."""
        return FisherCollection(module, settings)

    def save(
        self,
        path: str | os.PathLike[str],
        statistics: FisherStatistics,
        metadata: Mapping[str, Json],
        *,
        form: Form = "full",
        rank: int | None = None,
    ) -> None:
        """As `save_fisher` does; there is one form only."""
        save_fisher(path, statistics, metadata)

    def operations(self, size: ModelSize, labels: int) -> int:
        """For each label a backward pass and its squares."""
        return 6 * labels * size.multiplied


def save_fisher(path: str | os.PathLike[str], statistics: FisherStatistics, metadata: Mapping[str, Json]) -> None:
    """Write a Fisher diagonal to ``path``, atomically; arguments and errors as for `save_gram`."""
    header: dict[str, object] = {
        "kind": FisherFile.kind,
        "rows": {},
        "shared": statistics.shared,
        "examples": statistics.examples,
        "batches": statistics.batches,
        "labels_from": statistics.labels_from,
        "likelihood": statistics.likelihood,
    }
    if statistics.batch_mean_labels != "true":
        header["batch_mean_labels"] = statistics.batch_mean_labels
    write_statistics(path, statistics.diagonals, header, metadata)


def collect_fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    labels_from: FisherLabels = "expectation",
    kind: Likelihood = "categorical",
    forward: Forward = default_forward,
    batch_mean_labels: Literal["true", "pseudo"] = "true",
    dtype: torch.dtype = torch.float32,
    across_processes: bool = False,
) -> FisherStatistics:
    """The Fisher diagonal of a model's trainable parameters.

    The model is run in evaluation mode; its training flags are restored, and its gradients are left alone.

    Args:
        model: the model.
        batches: mappings from argument name to tensor, the examples first, with the labels under "labels" where the
            variant needs them or some are not annotated; moved to the model's device.
        labels_from: the variant, see `FisherLabels`.
        kind: the distribution of the labels, see `Likelihood`.
        forward: runs the model on a batch and returns the logits; by default calls it with all of the batch but
            "labels".
        batch_mean_labels: the labels of the variant "batch_mean": "true" or "pseudo".
        dtype: of the sums of squares: ``torch.float32`` or ``torch.float64``.
        across_processes: the batches are this process's share, and the statistics are of the shares of all processes of
            PyTorch's default process group, which must all call this.

    Returns:
        The statistics, on the CPU.

    Raises:
        StatisticsError: see `FisherAccumulator`.
    """
    accumulator = FisherAccumulator(
        model, labels_from=labels_from, kind=kind, forward=forward, batch_mean_labels=batch_mean_labels, dtype=dtype
    )
    with evaluation_mode(model):
        for batch in batches:
            accumulator.add(batch, batch.get(LABELS))
    if across_processes:
        accumulator.add_up()
    return accumulator.compute()

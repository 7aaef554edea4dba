"""Loss-weighted Gram matrices: collection and files.

What they are: :mod:`regmean_lab.statistics.weighted_gram`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regmean_lab.statistics.batches import (
    Batch,
    Forward,
    attention_mask,
    default_forward,
    device_of,
    evaluation_mode,
    move_batch,
)
from regmean_lab.statistics.experts import expert_layers
from regmean_lab.statistics.forms import Form
from regmean_lab.statistics.kinds.base import Collection, Kind, ModelSize, TaskModel, register_kind
from regmean_lab.statistics.layers import linear_layers
from regmean_lab.statistics.likelihood import Likelihood
from regmean_lab.statistics.rows import Mask
from regmean_lab.statistics.scores import Scores
from regmean_lab.statistics.settings import WeightedGramConfig
from regmean_lab.statistics.store import Json, MatrixFile, write_matrices
from regmean_lab.statistics.weighted_gram import WeightedGramAccumulator, WeightedGramStatistics


class WeightedGramFile(MatrixFile):
    """A file of loss-weighted Gram matrices ``[in, in]``, see `MatrixFile`; no layer shares another's."""

    kind = "weighted_gram"


class WeightedGramCollection(Collection):
    """Loss-weighted Gram matrices of a module's layers."""

    accumulator: WeightedGramAccumulator

    def __init__(self, module: TaskModel, settings: WeightedGramConfig, layers: Sequence[str] | None = None) -> None:
        chosen = linear_layers(module.model) if layers is None else dict.fromkeys(layers)
        experts = set(expert_layers(module.model))
        accumulator = WeightedGramAccumulator(
            module.model,
            [layer for layer in chosen if layer not in experts],
            draws=settings.draws,
            plain_share=settings.plain_share,
            seed=settings.sign_seed,
        )
        super().__init__(module, accumulator)

    def add(self, batch: Batch) -> None:
        """Count the batch."""
        module = self.module
        self.accumulator.add(
            batch,
            module.scores,
            mask=module.gradient_mask(batch),
            run=module.gram_pass,
            run_mask=module.gram_mask(batch),
        )


@register_kind
class WeightedGramKind(Kind):
    """Loss-weighted Gram matrices of layers' inputs."""

    name = "weighted_gram"
    of = "inputs"
    settings = WeightedGramConfig
    file = WeightedGramFile
    title = (
        "loss-weighted Gram matrices of linear layers' inputs (`xᵀx`, mean over rows weighted by how much each matters "
        "to the scores): RegMean with `gram=weighted`"
    )
    method = "regmean"
    reveals = (
        "Weighted Gram matrices are sums over all rows, of which those count most that the model decides by; rows are "
        "counted as how many of equal weight would be as many. With more of them than columns they determine the rows "
        "only up to a rotation{rows}. They do tell what the data are like on the whole, and somebody who has the data "
        "set, or guesses it, can confirm that it is the one."
    )
    place = 4
    of_experts = False

    def collection(
        self, module: TaskModel, settings: Any, layers: Sequence[str] | None, experts: bool
    ) -> WeightedGramCollection:
        """See :class:`Kind`; no experts, whose outputs have no place of their own in the graph."""
        return WeightedGramCollection(module, settings, layers)

    def save(
        self,
        path: str | os.PathLike[str],
        statistics: WeightedGramStatistics,
        metadata: Mapping[str, Json],
        *,
        form: Form = "full",
        rank: int | None = None,
    ) -> None:
        """As `save_weighted_gram` does."""
        save_weighted_gram(path, statistics, metadata, form=form, rank=rank)

    def load(self, file: WeightedGramFile) -> WeightedGramStatistics:
        """All matrices of a file."""
        matrices = {layer: file.matrix(layer) for layer in file.rows}
        effective, share = file.metadata["effective_rows"], file.metadata["plain_share"]
        return WeightedGramStatistics(matrices, file.rows, file.examples, file.batches, effective, share)

    def rows_of(self, statistics: WeightedGramStatistics) -> dict[str, int]:
        """By layer, how many rows of equal weight would be as many: what may be told of single ones depends on it."""
        return {layer: int(rows) for layer, rows in statistics.effective_rows.items()}

    def operations(self, size: ModelSize, labels: int) -> int:
        """A second forward pass, for each column half of a backward pass, and half of each product twice."""
        columns = min(max(labels - 1, 1), WeightedGramConfig().draws)
        return 2 * size.multiplied * (1 + columns) + 2 * size.input_entries


def save_weighted_gram(
    path: str | os.PathLike[str],
    statistics: WeightedGramStatistics,
    metadata: Mapping[str, Json],
    *,
    form: Form = "full",
    rank: int | None = None,
) -> None:
    """Write loss-weighted Gram matrices to ``path``, atomically; arguments and errors as for `save_gram`."""
    header: dict[str, object] = {
        "kind": WeightedGramFile.kind,
        **statistics.header(),
        "effective_rows": {layer: round(rows, 2) for layer, rows in statistics.effective_rows.items()},
        "plain_share": statistics.plain_share,
    }
    write_matrices(path, statistics.matrices, header, metadata, form=form, rank=rank)


def collect_weighted_gram(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    layers: Sequence[str] | None = None,
    kind: Likelihood = "categorical",
    forward: Forward = default_forward,
    counted: Callable[[Batch], Tensor | None] = lambda batch: None,
    mask: Callable[[Batch], Mask] = attention_mask,
    draws: int = 4,
    plain_share: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    across_processes: bool = False,
) -> WeightedGramStatistics:
    """Loss-weighted Gram matrices of the inputs of a model's linear layers.

    The model is run in evaluation mode; its training flags are restored, and its gradients are left alone.

    Args:
        model: the model.
        batches: mappings from argument name to tensor, the examples first; moved to the model's device.
        layers: names of linear layers as in ``model.named_modules()``; None for all.
        kind: the distribution of the labels: logits of "categorical" ones count up to what all of an example (or token)
            have in common, others as they are.
        forward: runs the model on a batch and returns the logits; by default calls it with all of the batch but
            "labels".
        counted: of a batch, which logits count, see `Scores`; by default all.
        mask: tells which tokens of a batch are real; by default its "attention_mask". See `Mask`.
        draws: most backward passes of a batch, see `directions`.
        plain_share: κ, the share of the plain Gram matrix.
        seed: of random signs.
        dtype: of the sums: ``torch.float32`` or ``torch.float64``.
        across_processes: the batches are this process's share, and the statistics are of the shares of all processes of
            PyTorch's default process group, which must all call this.

    Returns:
        The statistics, on the CPU.

    Raises:
        StatisticsError: see `WeightedGramAccumulator`.
    """
    accumulator = WeightedGramAccumulator(model, layers, draws=draws, plain_share=plain_share, seed=seed, dtype=dtype)
    device = device_of(model)

    def scores(batch: Batch) -> Scores:
        return Scores(forward(model, batch), kind == "categorical", counted(batch))

    with evaluation_mode(model):
        for batch in batches:
            moved = move_batch(batch, device)
            own = mask(moved)
            accumulator.add(moved, scores, mask=own, run=lambda given: forward(model, given), run_mask=own)
    if across_processes:
        accumulator.add_up()
    return accumulator.compute()

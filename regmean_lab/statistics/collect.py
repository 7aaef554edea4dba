"""Collect statistics in one call, from any iterable of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from .batches import (
    LABELS,
    Batch,
    Forward,
    call_model,
    count_examples,
    default_forward,
    device_of,
    evaluation_mode,
    move_batch,
)
from .convergence import ConvergenceRule
from .errors import StatisticsError
from .fisher import FisherAccumulator, FisherLabels, FisherStatistics
from .gradient_gram import GradientGramAccumulator, GradientGramStatistics
from .gram import GramAccumulator, GramStatistics
from .likelihood import LabelSource, Likelihood
from .rows import Mask


def attention_mask(batch: Batch) -> Mask:
    """The batch's ``attention_mask`` ``[batch, tokens]``, or None if it has none."""
    mask: Mask = batch.get("attention_mask")
    return mask


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

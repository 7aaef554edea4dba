"""Gram matrices of the gradients at the outputs of linear layers: with those of the inputs, the statistics of MaTS.

For a linear layer with inputs ``x`` and gradients ``g = ∂ log p(y|x) / ∂ (output)`` (one row a token) the layer's block
of the Fisher information is approximately ``E[x xᵀ] ⊗ E[g gᵀ]`` (Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature", ICML 2015). This module collects the second factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from .accumulator import Accumulator
from .batches import LABELS, Batch, Forward, count_examples, default_forward, device_of, move_batch
from .distributed import add_up_, gather
from .errors import StatisticsError, name_list
from .layer_matrices import LayerMatrices
from .layers import is_conv1d, select_layers
from .likelihood import Likelihood, output_factors
from .outputs import OutputRecorder
from .products import add_gram_, mirror_upper_
from .rows import Mask, RowSelection
from .settings import LabelSource

WIDEST_OUTPUT = 8192
"""Layers with more outputs (the words of a vocabulary) are left out by default: their matrices would be too large."""


@dataclass(frozen=True)
class GradientGramStatistics(LayerMatrices):
    """Gram matrices of the gradients at the outputs of a model's linear layers.

    A layer's matrix ``[out, out]`` is the mean over rows of ``g gᵀ``, summed over the columns of `output_factors`: the
    expectation over labels; in the dtype of the sums.

    Attributes:
        labels_from: where the labels come from.
        likelihood: the distribution of the labels.
    """

    title = "gradient Gram matrix"

    labels_from: LabelSource
    likelihood: Likelihood


class GradientGramAccumulator(Accumulator[GradientGramStatistics]):
    """Collects Gram matrices of the gradients at the outputs of a model's linear layers.

    The examples of a batch must not influence each other. `add` may be called under ``torch.no_grad``; parameters'
    ``grad`` are left alone. A caller's autocast is respected in the forward pass; products are computed in ``dtype``.

    Args:
        model: the model, in evaluation mode, with parameters that require gradients.
        layers: names as in ``model.named_modules()``; None for all linear layers with at most `WIDEST_OUTPUT` outputs.
        labels_from: where the labels come from, see `LabelSource`.
        kind: the distribution of the labels, see `Likelihood`.
        forward: runs the model on a batch and returns the logits; by default calls it with all of the batch but
            "labels".
        count_padding: count the rows of padding tokens too.
        extra_rows: count also outputs that do not come from the examples (see `RowSelection`).
        dtype: of the sums: ``torch.float32`` or ``torch.float64``.

    Raises:
        StatisticsError: for unknown settings, or layers that the model does not have.
    """

    title = GradientGramStatistics.title
    overflowing = "gradients"
    suspects = "the weights and labels"
    rows_are = "output"

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        labels_from: LabelSource = "expectation",
        kind: Likelihood = "categorical",
        forward: Forward = default_forward,
        count_padding: bool = False,
        extra_rows: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        for setting, value, allowed in (
            ("labels_from", labels_from, get_args(LabelSource)),
            ("kind", kind, get_args(Likelihood)),
            ("dtype", dtype, (torch.float32, torch.float64)),
        ):
            if value not in allowed:
                raise StatisticsError(f"{setting}={value}: expected one of {', '.join(map(str, allowed))}")
        self._layers = select_layers(model, layers)
        if layers is None:
            self._layers = {name: part for name, part in self._layers.items() if _outputs(part) <= WIDEST_OUTPUT}
        self._model = model
        self._labels_from = labels_from
        self._kind = kind
        self._forward = forward
        self._count_padding = count_padding
        self._extra_rows = extra_rows
        self._dtype = dtype
        self._sums: dict[str, Tensor] = {}
        self._rows = dict.fromkeys(self._layers, 0)

    def add(self, batch: Batch, labels: Tensor | None = None, mask: Mask = None) -> None:
        """Add the examples of a batch.

        Args:
            batch: what ``forward`` takes: a mapping with the examples first in its tensors; moved to the model's
                device.
            labels: see `output_factors`. Needed for true labels; otherwise they only tell what is not annotated.
            mask: which tokens are real, see `Mask`; None if all rows count.

        Raises:
            StatisticsError: if the model is in training mode, if its logits carry no gradient, if the labels do not
                fit them, or if `add_up` was called.
        """
        self._check_open("add")
        if training := [name or type(part).__name__ for name, part in self._model.named_modules() if part.training]:
            raise StatisticsError(f"the model is in training mode ({name_list(training, 3)}); call model.eval() first")
        torch.clear_autocast_cache()  # may hold weights that were cast in a pass without gradients
        with self._whole(), torch.inference_mode(False), torch.enable_grad():
            device = device_of(self._model)
            moved = move_batch(batch, device)
            if labels is not None:
                labels = move_batch({LABELS: labels}, device)[LABELS]
            self._add(moved, labels, mask)
        self._count(count_examples(batch))

    def _add_up_sums(self) -> None:
        widths = {layer: len(total) for layer, total in self._sums.items()}
        every = gather((self._rows, widths))
        self._rows = {layer: sum(rows[layer] for rows, _ in every) for layer in self._layers}
        device = device_of(self._model)
        for layer in self._layers:
            if self._rows[layer] == 0:
                continue
            width = next(widths[layer] for _, widths in every if layer in widths)
            with torch.inference_mode(False):
                if layer not in self._sums:
                    self._sums[layer] = torch.zeros(width, width, dtype=self._dtype, device=device)
                add_up_(self._sums[layer])

    def compute(self, device: torch.device | str = "cpu") -> GradientGramStatistics:
        """The statistics of all batches so far; collecting may go on afterwards.

        Args:
            device: where the matrices are put.

        Raises:
            StatisticsError: if there was no batch, a batch failed half-way, a layer saw no rows, or a matrix holds NaN
                or infinity; the layers are named.
        """
        self._check_counted()
        self._check_rows(self._rows)
        with torch.inference_mode(False):
            matrices = {
                layer: mirror_upper_(self._sums[layer] / self._rows[layer]).to(device) for layer in self._layers
            }
        self._check_finite(matrices)
        return GradientGramStatistics(
            matrices, dict(self._rows), self._examples, self._batches, self._labels_from, self._kind
        )

    def _add(self, batch: Batch, labels: Tensor | None, mask: Mask) -> None:
        selection = RowSelection(mask, count_padding=self._count_padding, extra_rows=self._extra_rows)
        with OutputRecorder(self._layers, selection) as recorder:
            logits = self._forward(self._model, batch)
        if not logits.requires_grad:
            raise StatisticsError("the logits carry no gradient; `forward` must not detach them or disable gradients")
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        edges = [call.edge for call in recorder.calls]
        for call in recorder.calls:
            counted = selection.select(torch.empty(*call.shape[:-1], 1, device=logits.device), call.mask)
            self._rows[call.layer] += len(counted)
            if call.layer not in self._sums:
                width = call.shape[-1]
                self._sums[call.layer] = torch.zeros(width, width, dtype=self._dtype, device=logits.device)
        factors = output_factors(logits, labels, self._kind, self._labels_from)
        for number, factor in enumerate(factors, 1):
            with torch.autocast(logits.device.type, enabled=False):
                gradients = torch.autograd.grad(
                    logits, edges, factor, retain_graph=number < len(factors), allow_unused=True
                )
                with torch.no_grad():
                    for call, gradient in zip(recorder.calls, gradients, strict=True):
                        if gradient is not None:
                            rows = selection.select(gradient, call.mask).to(self._dtype)
                            add_gram_(self._sums[call.layer], rows)


def _outputs(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[1] if is_conv1d(layer) else weight.shape[0]

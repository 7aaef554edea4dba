"""Gram matrices of the inputs of linear layers, weighted by how much each row matters to the model's scores.

RegMean fits all rows of a layer's input alike, also those whose outputs hardly reach what the model decides by. Here a
row ``x_r`` with the output ``y_r`` counts ``ω_r = Σ_k ‖∂z_k/∂y_r‖²`` (see `regmean_lab.statistics.scores`):
``S = Σ ω_r x_r x_rᵀ / Σ ω_r``. What is kept is ``M = (1 − κ) S tr(G)/tr(S) + κ G``, with ``G`` the plain Gram matrix,
so that directions without any weight are still known. To first order in an output's error ``e_r`` the error of the
scores is ``(∂z/∂y_r)ᵀ e_r``, whose expected square is ``ω_r ‖e_r‖²`` up to a factor for errors without a preferred
direction: a fit to M minimises the error of the scores, not that of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .accumulator import Accumulator
from .batches import Batch, call_model, count_examples, device_of, move_batch
from .distributed import add_up_, gather
from .errors import StatisticsError, name_list
from .gram import GramAccumulator
from .layer_matrices import LayerMatrices
from .layers import select_layers
from .outputs import OutputRecorder
from .products import add_gram_, mirror_upper_
from .rows import Mask, RowSelection
from .scores import Scores, directions

ScoresOf = Callable[[Batch], Scores]
"""Runs the model on a batch with gradients, and gives its scores."""


@dataclass(frozen=True)
class WeightedGramStatistics(LayerMatrices):
    """Loss-weighted Gram matrices of a model's linear layers.

    A layer's matrix ``[in, in]`` is M, with the trace of the plain Gram matrix, whose rows are counted; where no row
    matters to the scores it is the plain Gram matrix.

    Attributes:
        effective_rows: by layer, ``(Σ ω)² / Σ ω²``: how many rows of equal weight would be as many.
        plain_share: κ.
    """

    title = "weighted Gram matrix"

    effective_rows: dict[str, float]
    plain_share: float


@dataclass
class _Sums:
    """Of one layer: Σ ω x xᵀ (its upper triangle), Σ ω and Σ ω²."""

    products: Tensor
    weights: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))


class WeightedGramAccumulator(Accumulator[WeightedGramStatistics]):
    """Collects loss-weighted Gram matrices of a model's linear layers.

    The examples of a batch must not influence each other. Of each batch, one pass without gradients counts the rows of
    the plain Gram matrices, and one pass with as many backward passes as `directions` has columns weights them.
    Parameters' ``grad`` are left alone, and labels are not needed. A caller's autocast is respected in forward passes;
    products are computed in ``dtype``.

    Args:
        model: the model, in evaluation mode, with parameters that require gradients.
        layers: names as in ``model.named_modules()``; None for all linear layers (not those of fused experts).
        draws: most backward passes of a batch.
        plain_share: κ, from 0 to 1.
        seed: of the random signs where there are more scores than ``draws``.
        dtype: of the sums: ``torch.float32`` or ``torch.float64``.

    Raises:
        StatisticsError: for settings out of range, or layers that the model does not have.
    """

    title = WeightedGramStatistics.title
    overflowing = "activations or gradients"

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        draws: int = 4,
        plain_share: float = 0.01,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if draws < 1:
            raise StatisticsError(f"draws={draws}: expected at least 1")
        if not 0 <= plain_share <= 1:
            raise StatisticsError(f"plain_share={plain_share}: expected a share from 0 to 1")
        self._model = model
        self._layers = select_layers(model, layers)
        self._draws = draws
        self._plain_share = plain_share
        self._seed = seed
        self._dtype = dtype
        self._plain = GramAccumulator(model, list(self._layers), dtype=dtype)
        self._sums: dict[str, _Sums] = {}

    def add(
        self,
        batch: Batch,
        scores: ScoresOf,
        *,
        mask: Mask = None,
        run: Callable[[Batch], object] | None = None,
        run_mask: Mask = None,
    ) -> None:
        """Add the examples of a batch.

        Args:
            batch: a mapping with the examples first in its tensors; moved to the model's device.
            scores: runs the model on it with gradients.
            mask: which tokens are real in that pass, see `Mask`. Rows without gradient do not count anyhow.
            run: runs the model for the plain Gram matrices; None calls it with all of the batch but the labels.
            run_mask: which tokens are real in that pass.

        Raises:
            StatisticsError: if the model is in training mode, if its scores carry no gradient, or if `add_up` was
                called.
        """
        self._check_open("add")
        if training := [name or type(part).__name__ for name, part in self._model.named_modules() if part.training]:
            raise StatisticsError(f"the model is in training mode ({name_list(training, 3)}); call model.eval() first")
        moved = move_batch(batch, device_of(self._model))
        with self._whole():
            with torch.no_grad(), self._plain, self._plain.batch(run_mask, count_examples(batch)):
                (run or (lambda given: call_model(self._model, given)))(moved)
            torch.clear_autocast_cache()  # may hold weights that were cast in the pass without gradients
            with torch.inference_mode(False), torch.enable_grad():
                self._weight(moved, scores, mask)
        self._count(count_examples(batch))

    def compute(self, device: torch.device | str = "cpu") -> WeightedGramStatistics:
        """The statistics of all batches so far; collecting may go on afterwards.

        Args:
            device: where the matrices are put.

        Raises:
            StatisticsError: if there was no batch, a batch failed half-way, a layer saw no rows, or a matrix holds NaN
                or infinity; the layers are named.
        """
        self._check_counted()
        plain = self._plain.compute(device)
        matrices: dict[str, Tensor] = {}
        effective: dict[str, float] = {}
        for layer in self._layers:
            gram = plain.matrix(layer)
            rows = plain.rows[plain.shared[layer]]
            own, effective[layer] = gram, float(rows)
            sums = self._sums.get(layer)
            if sums is not None and float(sums.weights[0]) != 0:  # of NaN as well, which is told below
                weight, square = sums.weights.tolist()
                with torch.inference_mode(False):
                    weighted = mirror_upper_(sums.products / weight).to(device)
                    own = mixed(weighted, gram, self._plain_share)
                effective[layer] = min(float(rows), weight * weight / square)
            # Layers share a plain matrix, and a file holds each tensor once.
            matrices[layer] = own.clone() if own is gram else own
        self._check_finite(matrices)
        counts = {layer: plain.rows[plain.shared[layer]] for layer in self._layers}
        return WeightedGramStatistics(matrices, counts, self._examples, self._batches, effective, self._plain_share)

    def _add_up_sums(self) -> None:
        self._plain.add_up()
        widths = {layer: len(sums.products) for layer, sums in self._sums.items()}
        every = gather(widths)
        device = device_of(self._model)
        for layer in self._layers:
            width = next((seen[layer] for seen in every if layer in seen), None)
            if width is None:
                continue
            with torch.inference_mode(False):
                if layer not in self._sums:
                    self._sums[layer] = _Sums(torch.zeros(width, width, dtype=self._dtype, device=device))
                add_up_(self._sums[layer].products)
            self._sums[layer].weights = torch.stack(gather(self._sums[layer].weights)).sum(0)

    def _weight(self, batch: Batch, scores_of: ScoresOf, mask: Mask) -> None:
        selection = RowSelection(mask)
        with OutputRecorder(self._layers, selection, keep_inputs=True) as recorder:
            scores = scores_of(batch)
        if recorder.frozen:
            raise StatisticsError(
                f"no gradient at the output of {name_list(list(dict.fromkeys(recorder.frozen)))}: the parameters up to "
                "it do not require gradients; call model.requires_grad_(True) first, or leave it out of `layers`"
            )
        if not scores.values.requires_grad:
            raise StatisticsError("the scores carry no gradient; they must not be detached, nor gradients disabled")
        values = scores.values.to(torch.promote_types(scores.values.dtype, torch.float32))
        columns = directions(scores, batch, self._draws, self._seed)
        edges = [call.edge for call in recorder.calls]
        norms: list[Tensor | None] = [None] * len(edges)
        following = next(columns, None)
        while (column := following) is not None:
            following = next(columns, None)
            with torch.autocast(values.device.type, enabled=False):
                gradients = torch.autograd.grad(
                    values, edges, column, retain_graph=following is not None, allow_unused=True
                )
            with torch.no_grad():
                for place, (call, gradient) in enumerate(zip(recorder.calls, gradients, strict=True)):
                    if gradient is not None:
                        own = torch.linalg.vector_norm(selection.select(gradient, call.mask).to(self._dtype), dim=1)
                        before = norms[place]
                        norms[place] = own if before is None else torch.hypot(before, own)
        with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
            for call, norm in zip(recorder.calls, norms, strict=True):
                if norm is not None:
                    assert call.inputs is not None
                    self._add_rows(call.layer, selection.select(call.inputs, call.mask), norm)

    def _add_rows(self, layer: str, rows: Tensor, norms: Tensor) -> None:
        """Add rows ``[rows, in]`` whose weights are the squares of ``norms`` ``[rows]``."""
        width = rows.shape[1]
        if layer not in self._sums:
            self._sums[layer] = _Sums(torch.zeros(width, width, dtype=self._dtype, device=rows.device))
        sums = self._sums[layer]
        add_gram_(sums.products, rows.to(self._dtype) * norms.unsqueeze(1))
        weights = norms.cpu().double().square()
        sums.weights += torch.stack([weights.sum(), weights.square().sum()])


def mixed(weighted: Tensor, gram: Tensor, plain_share: float) -> Tensor:
    """``(1 − κ) S tr(G)/tr(S) + κ G``, with the trace of G; G itself where S is zero.

    Args:
        weighted: S, ``[in, in]``.
        gram: G, of the same shape.
        plain_share: κ.
    """
    size, plain = float(weighted.diagonal().sum()), float(gram.diagonal().sum())
    if size == 0:
        return gram
    return weighted * ((1 - plain_share) * plain / size) + gram * plain_share

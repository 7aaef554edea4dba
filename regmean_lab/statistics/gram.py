"""Gram matrices of the inputs of linear layers: the statistics of RegMean.

For a linear layer with inputs ``X`` (one row a token) RegMean needs ``G = Xᵀ X / n`` (Jin et al., "Dataless Knowledge
Fusion by Merging Weights of Language Models", ICLR 2023, section 3). This module collects ``G`` in forward passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .accumulator import Accumulator
from .batches import device_of
from .distributed import add_up_, gather
from .errors import StatisticsError, name_list
from .experts import FusedExperts, fused_experts
from .layers import select_layers
from .products import mirror_upper_
from .rows import Mask, RowSelection
from .sharing import InputGroup, common_groups


@dataclass(frozen=True)
class GramStatistics:
    """Gram matrices of a model's linear layers.

    Attributes:
        matrices: by leading layer, the mean over rows of ``x xᵀ``: ``[in, in]``, symmetric, in the dtype of the sums.
        shared: for every layer the leading layer whose matrix is also its own, because both had the same inputs.
        rows: by leading layer, the number of rows that its matrix is the mean of.
        examples: number of examples seen.
        batches: number of batches seen.
        relative_change: with a stop rule, the largest relative change of a matrix at its last comparison.
        unseen: of experts that no token was sent to, by layer, the number of inputs: their matrices are zero.
    """

    matrices: dict[str, Tensor]
    shared: dict[str, str]
    rows: dict[str, int]
    examples: int
    batches: int
    relative_change: float | None = None
    unseen: dict[str, int] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """The names of all layers, those that share another layer's matrix included."""
        return [*self.shared, *self.unseen]

    def matrix(self, layer: str) -> Tensor:
        """The Gram matrix ``[in, in]`` of ``layer``.

        Raises:
            StatisticsError: if there is none for this layer.
        """
        if layer in self.unseen:
            return torch.zeros(self.unseen[layer], self.unseen[layer])
        if layer not in self.shared:
            raise StatisticsError(f"no Gram matrix of layer '{layer}'; there are {name_list(self.shared)}")
        return self.matrices[self.shared[layer]]

    def combine(self, other: GramStatistics) -> GramStatistics:
        """The statistics of both sets of examples together: means weighted by their numbers of rows.

        Layers share a matrix in the result where they shared one in both.

        Raises:
            StatisticsError: if the two do not have the same layers.
        """
        different = set(self.layers) ^ set(other.layers)
        if different:
            raise StatisticsError(f"cannot combine Gram matrices of different layers: {name_list(sorted(different))}")
        matrices: dict[str, Tensor] = {}
        rows: dict[str, int] = {}
        shared: dict[str, str] = {}
        seen = [layer for layer in self.layers if layer in self.shared or layer in other.shared]
        for layers in common_groups(seen, [self.shared, other.shared]):
            leader = layers[0]
            shared.update(dict.fromkeys(layers, leader))
            if leader in self.unseen or leader in other.unseen:
                only = other if leader in self.unseen else self
                matrices[leader], rows[leader] = only.matrix(leader), only.rows[only.shared[leader]]
                continue
            ours, theirs = self.matrix(leader), other.matrix(leader)
            counts = self.rows[self.shared[leader]], other.rows[other.shared[leader]]
            rows[leader] = sum(counts)
            mean = torch.lerp(ours.double(), theirs.to(ours.device, torch.float64), counts[1] / rows[leader])
            matrices[leader] = mean.to(ours.dtype)
        shared = {layer: shared[layer] for layer in seen}
        return GramStatistics(
            matrices=matrices,
            shared=shared,
            rows=rows,
            examples=self.examples + other.examples,
            batches=self.batches + other.batches,
            unseen={layer: width for layer, width in self.unseen.items() if layer not in shared},
        )


class GramAccumulator(Accumulator[GramStatistics]):
    """Collects the Gram matrices of a model's linear layers from its forward passes.

    ::

        with GramAccumulator(model) as accumulator, torch.no_grad():
            for batch in batches:
                with accumulator.batch(mask=batch["attention_mask"]):
                    model(**batch)
        statistics = accumulator.compute()

    Hooks sit on exactly the layers asked for while the accumulator is attached; forward passes outside a batch are not
    counted. Products are computed in ``rows_dtype`` whatever the autocast state, on the device of the input; rows of
    small batches are put together first.

    An input that goes to several layers (query, key and value) is multiplied once. Which layers share their inputs is
    learned in the first batch, by the identity of the tensors and not by names; a layer that later gets another input
    than its group goes on alone with a copy of the sum so far, so that the result is exact in any case. A layer called
    several times in a batch adds up its calls. One thing goes unnoticed: a tensor changed in place between its uses,
    if it was made under ``torch.inference_mode``, where tensors do not count their versions.

    Args:
        model: the model; its training flag and gradients are left alone.
        layers: names as in ``model.named_modules()``, and of the layers of fused experts (see
            `regmean_lab.statistics.experts`); None for all linear layers and experts.
        count_padding: count the rows of padding tokens too.
        extra_rows: count also inputs that do not come from the examples (see `RowSelection`).
        dtype: of the sums: ``torch.float32`` or ``torch.float64``.
        rows_dtype: of the rows that are multiplied: by default that of the sums; ``torch.bfloat16`` is faster where the
            processor has instructions for it, see `add_gram_`.

    Raises:
        StatisticsError: for layers that the model does not have, or another dtype.
    """

    title = "Gram matrix"
    overflowing = "activations"
    none_yet = "no batch was collected; run the model inside `with accumulator.batch(...)`"

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        count_padding: bool = False,
        extra_rows: bool = False,
        dtype: torch.dtype = torch.float32,
        rows_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.float64):
            raise StatisticsError(f"dtype={dtype}: Gram matrices are summed in torch.float32 or torch.float64")
        if rows_dtype not in (None, dtype, torch.bfloat16):
            raise StatisticsError(f"rows_dtype={rows_dtype}: rows are multiplied in {dtype} or torch.bfloat16")
        self._experts = fused_experts(model)
        parts = {layer: experts for experts in self._experts.values() for layer in experts.layers}
        self._layers = select_layers(model, layers, {layer: experts.module for layer, experts in parts.items()})
        self._widths = {layer: experts.width(layer) for layer, experts in parts.items() if layer in self._layers}
        self._checked: set[str] = set()
        self._device = device_of(model)
        self._count_padding = count_padding
        self._extra_rows = extra_rows
        self._dtype = dtype
        self._rows_dtype = rows_dtype or dtype
        self._groups: dict[str, InputGroup] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._selection: RowSelection | None = None
        self._batch_examples: int | None = None

    def attach(self) -> None:
        """Put the hooks on the layers; without effect if they are there."""
        if self._handles:
            return
        for name, module in self._layers.items():
            if name not in self._widths:
                self._handles.append(module.register_forward_pre_hook(self._hook(name), with_kwargs=True))
        for experts in self._experts.values():
            if any(layer in self._widths for layer in experts.layers):
                hook = self._expert_hook(experts)
                self._handles.append(experts.module.register_forward_hook(hook, prepend=True, with_kwargs=True))

    def detach(self) -> None:
        """Take the hooks off the layers; what was collected stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> GramAccumulator:
        """Attach."""
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach."""
        self.detach()

    @contextmanager
    def batch(self, mask: Mask = None, examples: int | None = None) -> Iterator[None]:
        """Count the forward pass inside the ``with`` block as one batch; see `begin_batch` for the arguments.

        After an exception inside the block the sums hold part of a batch, and `compute` refuses to return them.
        """
        self.begin_batch(mask, examples)
        try:
            with self._whole():
                yield
        except BaseException:
            self._selection = None
            raise
        self.end_batch()

    def begin_batch(self, mask: Mask = None, examples: int | None = None) -> None:
        """Begin a batch.

        Args:
            mask: which tokens are real, see `Mask`; None if there is no padding.
            examples: number of examples in the batch; by default the first dimension of the mask (of a mapping's
                first mask), or else that of the first input of a layer.

        Raises:
            StatisticsError: if the last batch was not ended, the hooks are not attached, or `add_up` was called.
        """
        if self._selection is not None:
            raise StatisticsError("begin_batch was called twice without end_batch")
        self._check_open("begin_batch")
        if not self._handles:
            raise StatisticsError(
                "begin_batch was called while detached; call attach first, or use `with accumulator:`"
            )
        if examples is None and isinstance(mask, Mapping):
            mask_tensors = list(mask.values())
            examples = len(mask_tensors[0]) if mask_tensors else None
        elif examples is None and isinstance(mask, Tensor):
            examples = len(mask)
        self._batch_examples = examples
        self._selection = RowSelection(mask, count_padding=self._count_padding, extra_rows=self._extra_rows)

    def end_batch(self) -> None:
        """End the batch that `begin_batch` began.

        Raises:
            StatisticsError: if none was begun.
        """
        if self._selection is None:
            raise StatisticsError("end_batch was called without begin_batch")
        self._selection = None
        for group in self._distinct_groups():
            for part in group.end_batch():
                self._groups.update(dict.fromkeys(part.members, part))
        self._count(self._batch_examples or 0)

    def _add_up_sums(self) -> None:
        """Layers share a matrix where they shared it in every process."""
        own = {layer: (group.members[0], group.rows, group.width) for layer, group in self._groups.items()}
        every = gather((own, self._batches))
        # A process without a batch knows nothing of sharing.
        leaders = [{layer: known[0] for layer, known in seen.items()} for seen, batches in every if batches]
        added: dict[str, InputGroup] = {}
        used: set[int] = set()
        for layers in common_groups(self._layers, leaders):
            known = [seen[layers[0]] for seen, _ in every if layers[0] in seen]
            rows, width = sum(count for _, count, _ in known), max((width for _, _, width in known), default=0)
            if rows == 0:
                continue
            group = self._groups.get(layers[0])
            with _plain_arithmetic(self._device):
                if group is None or group.rows == 0:
                    total = torch.zeros(width, width, dtype=self._dtype, device=self._device)
                else:
                    total = group.total().clone() if id(group) in used else group.total()
                    used.add(id(group))
                added.update(dict.fromkeys(layers, InputGroup.with_total(layers, add_up_(total), rows)))
        self._groups = added

    def compute(self, device: torch.device | str = "cpu", *, release: bool = False) -> GramStatistics:
        """The statistics of all batches so far; collecting may go on afterwards.

        Args:
            device: where the matrices are put.
            release: make the matrices out of the sums, which saves as much memory as they take; the accumulator can
                not be used any more.

        Raises:
            StatisticsError: if there was no batch, a batch failed half-way, a layer saw no rows, or a matrix holds NaN
                or infinity; the layers are named.
        """
        self._check_complete()
        matrices: dict[str, Tensor] = {}
        shared: dict[str, str] = {}
        rows: dict[str, int] = {}
        leaders: dict[int, str] = {}
        unseen = {layer: width for layer, width in self._widths.items() if not self._has_rows(layer)}
        for layer in self._layers:
            if layer in unseen:
                continue
            group = self._groups[layer]
            # The first member in the model's order leads, whichever was called first.
            leader = shared[layer] = leaders.setdefault(id(group), layer)
            if leader == layer:
                with _plain_arithmetic(group.device):
                    total = group.total()
                    mean = total.div_(group.rows) if release else total / group.rows
                    matrices[leader] = mirror_upper_(mean).to(device)
                if release:
                    group.clear()
                rows[leader] = group.rows
        if release:
            self._broken = "its sums were released"
        self._check_finite(matrices, shared.items())
        return GramStatistics(matrices, shared, rows, self._examples, self._batches, unseen=unseen)

    def means(self) -> list[Tensor]:
        """The mean over rows of each distinct input's ``x xᵀ`` so far: ``[in, in]``, zero below the diagonal.

        On the device that computes, in the order in which the inputs were first seen.

        Raises:
            StatisticsError: as `compute` does, except that values that are not finite are let through.
        """
        self._check_complete()
        found = []
        for group in self._distinct_groups():
            with _plain_arithmetic(group.device):
                found.append(group.total().triu().div_(group.rows))
        return found

    def _check_complete(self) -> None:
        """Raise if there is nothing sound to compute."""
        if self._selection is not None and not self._broken:
            raise StatisticsError("compute was called inside a batch; call end_batch first")
        self._check_counted()
        self._check_rows({layer: self._has_rows(layer) for layer in self._layers if layer not in self._widths})

    def _has_rows(self, layer: str) -> bool:
        return layer in self._groups and self._groups[layer].rows > 0

    def _expert_hook(self, experts: FusedExperts) -> Any:
        """A forward hook that counts the inputs of both layers of each expert."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            if self._selection is not None:
                self._receive_experts(experts, (*args, *kwargs.values()), output)

        return hook

    def _receive_experts(self, experts: FusedExperts, arguments: tuple[Any, ...], output: Tensor) -> None:
        """Take up what one call of fused experts sends to each of them."""
        selection = self._selection
        assert selection is not None
        with torch.no_grad():
            if experts.name not in self._checked:
                if not experts.agrees(arguments, output):
                    raise StatisticsError(
                        f"the experts of '{experts.name}' ({type(experts.module).__name__}) do not compute what their "
                        "parameters tell, so that their inputs cannot be measured: leave them out of `layers`"
                    )
                self._checked.add(experts.name)
            hidden = arguments[0].reshape(-1, arguments[0].shape[-1])
            mask = selection.mask_of(experts.parameters[0], hidden)
            if not selection.counts(hidden, mask):
                return
            for expert, _, *inputs in experts.calls(arguments, selection.tokens(hidden, mask)):
                for parameter, rows in zip(experts.parameters, inputs, strict=True):
                    layer = f"{parameter}.{expert}"
                    if layer in self._widths:
                        self._count_rows(layer, rows)

    def _count_rows(self, layer: str, rows: Tensor) -> None:
        """Add rows ``[rows, in]``, all of which count, to a layer that shares its input with no other."""
        with _plain_arithmetic(rows.device):
            group = self._groups.get(layer)
            if group is None:
                group = InputGroup([layer], rows.device, self._dtype)
            self._groups[layer] = group.receive(layer, rows, None, lambda: rows.to(self._rows_dtype))

    def _hook(self, layer: str) -> Any:
        """A forward pre-hook that hands the input of ``layer`` on while a batch is open."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._selection is not None:
                self._receive(layer, args[0] if args else next(iter(kwargs.values())))

        return hook

    def _receive(self, layer: str, inputs: Tensor) -> None:
        """Take up the input ``[..., in]`` of one call of ``layer``."""
        selection = self._selection
        assert selection is not None
        if self._batch_examples is None:
            self._batch_examples = inputs.shape[0] if inputs.dim() > 1 else 1
        with _plain_arithmetic(inputs.device):
            mask = selection.mask_of(layer, inputs)
            if not selection.counts(inputs, mask):
                return
            group = self._groups.get(layer)
            if group is None:
                # Groups are learned in the first batch: a layer joins the one whose only input so far is its own.
                if self._batches == 0:
                    for other in self._distinct_groups():
                        if other.join(layer, inputs, mask):
                            self._groups[layer] = other
                            return
                group = InputGroup([layer], inputs.device, self._dtype)
            self._groups[layer] = group.receive(
                layer, inputs, mask, lambda: selection.select(inputs, mask).to(self._rows_dtype)
            )

    def _distinct_groups(self) -> list[InputGroup]:
        """The groups, each once, in the order in which they were made."""
        return list({id(group): group for group in self._groups.values()}.values())


@contextmanager
def _plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Without gradients and autocast, nor inference mode: sums made under it could not be changed outside it."""
    if not (torch.is_grad_enabled() or torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device.type)):
        yield  # as nearly always; the contexts below take their time
        return
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield

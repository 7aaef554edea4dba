"""Gram matrices of a model of which one block is on the device at a time.

What is on the device is then a block, the sums of its layers, a batch, and what is in no block (embeddings and the
output layer); what each block gives for every batch waits in main memory, or in files. The matrices are those that
`collect_gram` collects, as every layer has the same inputs; layers of different blocks share no matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .batches import Batch, attention_mask, call_model, count_examples, evaluation_mode, move_batch
from .block_passes import BlockPasses
from .block_weights import BlockWeights, ReadWeight
from .errors import StatisticsError, name_list
from .experts import fused_experts
from .gram import GramAccumulator, GramStatistics
from .held_outputs import HeldOutputs
from .layers import select_layers
from .rows import Mask


@dataclass(frozen=True)
class FinishedBlock:
    """A block that all batches went through.

    Attributes:
        block: its name; None of all that is in no block.
        statistics: the Gram matrices of its layers, on the CPU; None where none was asked for.
    """

    block: str | None
    statistics: GramStatistics | None


def gram_by_blocks(
    model: nn.Module,
    batches: Sequence[Batch],
    held: HeldOutputs,
    *,
    read: ReadWeight | None = None,
    device: torch.device | str = "cpu",
    weights_dtype: torch.dtype | None = None,
    layers: Sequence[str] | None = None,
    forward: Callable[[nn.Module, Batch], object] = call_model,
    mask: Callable[[Batch], Mask] = attention_mask,
    count_padding: bool = False,
    extra_rows: bool = False,
    dtype: torch.dtype = torch.float32,
    rows_dtype: torch.dtype | None = None,
) -> Iterator[FinishedBlock]:
    """Gram matrices of the inputs of a model's linear layers, those of one block after the other's.

    Args:
        model: the model; its parameters may be on the device ``meta``.
        batches: mappings from argument name to tensor, the examples first. They are gone through once for every block.
        held: holds what blocks give between one block and the next; the caller closes it.
        read: reads the parameters that are on ``meta``; None for a model that has its weights.
        device: where the model is run.
        weights_dtype: of parameters while they are used; None leaves each as it is stored.
        layers: as in `collect_gram`.
        forward: as in `collect_gram`; may choose a precision.
        mask: as in `collect_gram`.
        count_padding: as in `collect_gram`.
        extra_rows: as in `collect_gram`.
        dtype: of the sums.
        rows_dtype: of the rows that are multiplied.

    Yields:
        Each block when it is finished, in the order in which the model calls them, and at last what is in no block.

    Raises:
        StatisticsError: as `collect_gram` does; for a model whose blocks cannot be run one by one, telling why.
    """
    place = torch.device(device)
    experts = {layer: part.module for part in fused_experts(model).values() for layer in part.layers}
    chosen = select_layers(model, layers, experts)
    if not batches:
        raise StatisticsError("no batch was collected: there are no examples")
    passes = BlockPasses(model, lambda batch: forward(model, batch), held, place)
    weights = BlockWeights(model, read, place, weights_dtype)
    of_blocks, others = weights.names(passes.blocks)
    wanted: dict[str | None, list[str]] = {block: [] for block in passes.blocks}
    owners = {id(part): block for block, module in passes.blocks.items() for part in module.modules()}
    for layer, module in chosen.items():
        wanted.setdefault(owners.get(id(module)), []).append(layer)
    outside = {layer: chosen[layer] for layer in wanted.get(None, [])}

    def collect(block: str | None) -> GramStatistics | None:
        """Run a block on all batches."""
        accumulator = None
        if own := wanted.get(block):
            accumulator = GramAccumulator(
                model, own, count_padding=count_padding, extra_rows=extra_rows, dtype=dtype, rows_dtype=rows_dtype
            )
        with torch.no_grad():
            for index, batch in enumerate(batches):
                moved = move_batch(batch, place)
                if accumulator is None:
                    passes.run(block, index, moved)
                    continue
                with accumulator, accumulator.batch(mask=mask(moved), examples=count_examples(moved)):
                    passes.run(block, index, moved)
        return None if accumulator is None else accumulator.compute(release=True)

    def next_block() -> str | None:
        with torch.no_grad():
            return passes.next_block(move_batch(batches[0], place))

    with evaluation_mode(model), weights.loaded(others), passes, passes.watching(outside):
        while passes.left and (block := next_block()) is not None:
            with weights.loaded(of_blocks[block]):
                statistics = collect(block)
            passes.finish(block)
            yield FinishedBlock(block, statistics)
        if lost := [layer for block in passes.left for layer in wanted[block]]:
            raise StatisticsError(
                f"no input rows were seen by {name_list(lost)}; the model does not call their blocks: leave them out "
                "of `layers`"
            )
        if not outside:
            next_block()  # to the model's end: whether it calls a block again, which was measured once
        yield FinishedBlock(None, collect(None) if outside else None)

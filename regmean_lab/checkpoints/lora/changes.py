"""A merged or fine-tuned model as an adapter to its base: its parameters one by one, as an adapter holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from regmean_lab.checkpoints.lora.core import core_layers, merged_cores, untouched
from regmean_lab.checkpoints.lora.folder import Change, WrittenAdapter, write_adapter
from regmean_lab.checkpoints.merge import PreparedMerge, check_doubles, merged_tensors


def write_merged_adapter(prepared: PreparedMerge, folder: Path, device: torch.device | str = "cpu") -> WrittenAdapter:
    """Merge, and write what became of the base as an adapter to it; fills ``prepared.diagnostics``.

    Args:
        prepared: the merge, which asks for an adapter.
        folder: where; it is there.
        device: where to compute.

    Raises:
        MergeError: for weights that cannot be merged, and changes that an adapter cannot hold.
    """
    request, base = prepared.request, prepared.base
    assert request.adapter is not None and base is not None
    for member in prepared.members:
        check_doubles(member)
    changes = _in_core_space if request.adapter.space == "core" else merged_tensors
    return write_adapter(
        folder,
        changes(prepared, device),
        prepared.placement,
        base.weights,
        base.source,
        request.adapter.rank,
        {part.name: part.dtype for shard in prepared.shards for part in shard.tensors},
        request.dtype or torch.float32,
    )


def _in_core_space(prepared: PreparedMerge, device: torch.device | str = "cpu") -> Iterator[tuple[str, Change]]:
    """Changes of linear layers merged as cores, and all else that an adapter changes merged as it is."""
    request, members = prepared.request, prepared.members
    assert request.adapter is not None and prepared.base is not None
    names = prepared.agreement.names
    placement, base = prepared.placement, prepared.base.weights
    linear = [f"{name}.weight" for name in placement.layers if f"{name}.weight" in base]
    layers = core_layers(members, linear)
    ordered = {name for orders in prepared.agreement.orders for name in orders}
    same = untouched(members, [name for name in names if name in base and name not in ordered])
    method = replace(request.method, keep_layers=[], merge_layers=None, keep_top=0)
    yield from merged_cores(method, members, layers, request.adapter.rank, device, prepared.settings)
    yield from merged_tensors(prepared, device, left_out={*layers, *same})

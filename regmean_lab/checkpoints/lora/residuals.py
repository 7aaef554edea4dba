"""What each checkpoint keeps beside a merged model: an adapter to it, in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from regmean_lab.checkpoints.alignment import AlignedWeights
from regmean_lab.checkpoints.architecture import Architecture
from regmean_lab.checkpoints.lora.folder import WrittenAdapter, write_adapter
from regmean_lab.checkpoints.lora.placement import Placement
from regmean_lab.checkpoints.merge import PreparedMerge
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.merging.low_rank import LowRank
from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.residual import Residual, residual_of
from regmean_lab.models.folders import stored_tensors
from regmean_lab.statistics import all_finite

RESIDUALS_FOLDER = "residuals"


def write_residuals(
    prepared: PreparedMerge, folder: Path, output: Path, device: torch.device | str = "cpu"
) -> dict[str, WrittenAdapter]:
    """Write the adapter of each checkpoint, if residuals are asked for; one that keeps nothing has none.

    Args:
        prepared: the merge.
        folder: the merged model's folder, whose weights are written.
        output: what that folder will be called.
        device: where to compute.

    Returns:
        What was written, by checkpoint.

    Raises:
        MergeError: for NaN or infinity in weights.
    """
    residual = residual_of(prepared.request.method.followed_by)
    if residual is None:
        return {}
    merged = FileWeights(stored_tensors(folder))
    written = {}
    for member, orders in zip(prepared.members, prepared.agreement.orders, strict=True):
        own = AlignedWeights(member.weights, {name: name for name in merged}, orders, filler=prepared.lead.weights)
        parts = _parts(prepared, residual, merged, own, member.name, torch.device(device))
        if not parts:
            continue
        place = folder / RESIDUALS_FOLDER / member.name
        place.mkdir(parents=True)
        # PEFT looks for a classifier's head in its adapter: one that the checkpoint keeps is there too.
        keeps = prepared.request.heads == "keep"
        heads = [name for name in member.architecture.head if keeps and name not in merged]
        written[member.name] = write_adapter(
            place,
            [*parts.items(), *((name, member.weights[name]) for name in heads)],
            Placement(member.architecture) if keeps else prepared.placement,
            merged,
            Source("merged", output.name, folder),
            residual.rank,
            {name: member.dtypes[name] for name in heads},
            prepared.request.dtype or torch.float32,
        )
    return written


def _parts(
    prepared: PreparedMerge,
    residual: Residual,
    merged: FileWeights,
    own: AlignedWeights,
    called: str,
    device: torch.device,
) -> dict[str, LowRank]:
    """By the name of a layer's weight, what one checkpoint keeps of it, if that is anything."""
    architecture, found = prepared.lead.architecture, {}
    for name, layer in residual.layers(merged, architecture.layout, architecture.head).items():
        value = own[name]
        if not all_finite(value):
            raise MergeError(f"{name}: NaN or infinity in the weights of {called}")
        value = value.to(device)
        part = residual.of(layer, merged[name].to(value), value)
        if part.rank:
            found[name] = part
    return found


def residuals_section(written: Mapping[str, WrittenAdapter], architecture: Architecture, heads: str) -> str:
    """The section of a model card on residuals, with a blank line around it; empty without any.

    Args:
        written: what was written, by checkpoint.
        architecture: the merged model.
        heads: what became of the heads.
    """
    if not written:
        return ""
    name = next(iter(written))
    rows = "".join(f"| `{RESIDUALS_FOLDER}/{own}` | {100 * part.kept:.2f} |\n" for own, part in written.items())
    loader = architecture.base_name if heads == "drop" else architecture.name
    imported, merged = f"from transformers import {loader}", f'{loader}.from_pretrained("THIS_FOLDER")'
    if heads == "keep":
        imported = "from regmean_lab.checkpoints.heads import load_with_head"
        merged = f'load_with_head("THIS_FOLDER", "{name}")'
    return f"""
## Residuals

Beside the merged model each checkpoint keeps a part of low rank of its own linear layers' difference from it, as a LoRA
adapter:

```python
from peft import PeftModel
{imported}

merged = {merged}
model = PeftModel.from_pretrained(merged, "THIS_FOLDER/{RESIDUALS_FOLDER}/{name}")
```

| folder | kept of the squared Frobenius norm of the difference, % |
|---|---:|
{rows}"""

"""Gram matrices by a loop, which those of `collect_statistics` are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor


def naive_grams(
    model: torch.nn.Module,
    layers: Iterable[str],
    inputs: Sequence[Mapping[str, Any]],
    keep: slice = slice(None),
) -> dict[str, Tensor]:
    """For each layer the mean of xxᵀ over the rows of its inputs, one example at a time, in float64.

    Args:
        model: the model.
        layers: names of layers.
        inputs: arguments of the model, of one example each.
        keep: which of an example's rows count.
    """
    rows: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def add(layer: str, _: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        rows[layer].append(given[0].detach().double().flatten(0, -2))

    handles = [model.get_submodule(layer).register_forward_pre_hook(partial(add, layer)) for layer in rows]
    with torch.no_grad():
        for arguments in inputs:
            model(**arguments)
    for handle in handles:
        handle.remove()
    every = {layer: torch.cat([part[keep] for part in parts]) for layer, parts in rows.items()}
    return {layer: chosen.T @ chosen / len(chosen) for layer, chosen in every.items()}

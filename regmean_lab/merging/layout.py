"""What a merge must know of an architecture, found from the model itself."""

from __future__ import annotations

from torch import Tensor, nn

from regmean_lab.merging.base import FeedForward, Layout, LinearLayer
from regmean_lab.statistics import is_conv1d, linear_layers


def layout_of(model: nn.Module, labels: int | None = None) -> Layout:
    """Find the linear layers of a model and the outputs of its head.

    Args:
        model: ``nn.Linear`` layers and ``Conv1D`` layers (GPT-2's, with ``nf`` outputs and a weight of [in, out]) count
            as linear. A weight that two modules share (an output layer tied to the embedding) does not: it is merged
            as a parameter of its own, once, so that it stays shared.
        labels: number of labels of a multi-label head; its last linear layer with so many outputs is the label
            output. None where no layer has a row for each label.
    """
    linear = {}
    head = None
    tied = _tied_weights(model)
    for name, module in linear_layers(model).items():
        if id(module.weight) in tied:
            continue
        linear[f"{name}.weight"] = LinearLayer(name, transposed=is_conv1d(module))
        if isinstance(module, nn.Linear) and module.out_features == labels:
            head = name
    outputs = frozenset() if head is None else frozenset({f"{head}.weight", f"{head}.bias"})
    return Layout(linear, outputs, feed_forward_blocks(model))


def _tied_weights(model: nn.Module) -> set[int]:
    """Identities of the parameters that belong to more than one module."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {identity for identity, count in owners.items() if count > 1}


def feed_forward_blocks(model: nn.Module) -> tuple[FeedForward, ...]:
    """Feed-forward blocks of a model: a linear layer h → m, or two in a row (gated), then one m → h, with m > h."""
    blocks = []
    before: list[tuple[LinearLayer, int, int]] = []
    for name, module in linear_layers(model).items():
        transposed = is_conv1d(module)
        weight = module.weight
        assert isinstance(weight, Tensor)
        width_out, width_in = reversed(weight.shape) if transposed else weight.shape
        first: list[LinearLayer] = []
        for layer, layer_in, layer_out in reversed(before[-2:]):
            if (layer_in, layer_out) != (width_out, width_in):
                break
            first.insert(0, layer)
        own = LinearLayer(name, transposed)
        if first and width_in > width_out:
            blocks.append(FeedForward(tuple(first), own))
        before.append((own, width_in, width_out))
    return tuple(blocks)

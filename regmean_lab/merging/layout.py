"""The properties of an architecture that merging needs, found from the model itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from regmean_lab.merging.parameters import FeedForward, Layout, LinearLayer, StackedLayers
from regmean_lab.statistics import fused_experts, is_conv1d, linear_layers

_NO_MAP = re.compile(r"bias|embed|position|token|scale|norm|(^|_)(A|a)_log$")
"""What names of parameters have that are tables, offsets or scales."""


def layout_of(model: nn.Module, labels: int | None = None) -> Layout:
    """Find the linear layers of a model and the outputs of its head.

    Args:
        model: ``nn.Linear`` layers and ``Conv1D`` layers (GPT-2's, with ``nf`` outputs and a weight of [in, out]) count
            as linear. A weight that two modules share (an output layer tied to the embedding) does not: it is merged
            as a separate parameter, once, so that it stays shared.
        labels: number of labels of a multi-label head; its last linear layer with this many outputs is the label
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
    stacked = {
        parameter: StackedLayers(parameter, experts.count, experts.transposed)
        for experts in fused_experts(model).values()
        for parameter in experts.parameters
    }
    return Layout(linear, outputs, feed_forward_blocks(model), stacked, other_maps(model))


def other_maps(model: nn.Module) -> tuple[str, ...]:
    """Parameters that are matrices and map activations, but not as a linear layer's weight does: so far as it shows.

    Convolutions, bilinear maps, joint projections (``in_proj_weight``), routers and other parameters of two dimensions
    and more are listed; weights of linear layers, fused experts, embeddings and normalisations, biases, and tables (of
    positions, of special tokens), which are added rather than multiplied, are not. Tied parameters are named once.
    """
    known = {id(parameter) for layer in linear_layers(model).values() for parameter in layer.parameters(recurse=False)}
    for experts in fused_experts(model).values():
        known |= {id(getattr(experts.module, name.rpartition(".")[2])) for name in experts.parameters}
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or "norm" in type(module).__name__.lower():
            known |= {id(parameter) for parameter in module.parameters(recurse=False)}
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if id(parameter) not in known
        and sum(size > 1 for size in parameter.shape) >= 2
        and not _NO_MAP.search(name.rpartition(".")[2])
    )


def averaged_line(names: Sequence[str], method: str) -> str | None:
    """One line that names parameters which a method averages although they map inputs linearly; None without any.

    Parameters that differ in the numbers of their layers only are named together.
    """
    if not names:
        return None
    patterns: dict[str, int] = {}
    for name in names:
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
        patterns[pattern] = patterns.get(pattern, 0) + 1
    listed = ", ".join(f"{pattern} ({count})" if count > 1 else pattern for pattern, count in patterns.items())
    return f"averaged, as {method} has no inputs of them: {listed}"


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

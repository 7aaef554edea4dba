"""The layers of a checkpoint that statistics are of, told without any pass."""

from __future__ import annotations

from torch import nn

from regmean_lab.callbacks.requests import StatisticsRequest
from regmean_lab.statistics import expert_layers, linear_layers
from regmean_lab.statistics.experts import fused_experts
from regmean_lab.statistics.layers import is_conv1d


def input_widths(model: nn.Module) -> dict[str, int]:
    """By linear layer of a model, those of fused experts included, the number of its inputs."""
    widths = {
        name: int(module.weight.shape[0 if is_conv1d(module) else 1])  # type: ignore[index]
        for name, module in linear_layers(model).items()
    }
    for experts in fused_experts(model).values():
        widths |= {layer: experts.width(layer) for layer in experts.layers}
    return widths


def wanted_layers(request: StatisticsRequest, model: nn.Module) -> list[str]:
    """The layers that a request is of, in the order of the model."""
    layers = [*linear_layers(model), *(expert_layers(model) if request.experts else [])]
    return [layer for layer in layers if request.layers is None or layer in request.layers]

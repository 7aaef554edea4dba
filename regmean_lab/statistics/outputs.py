"""The outputs of layers in a forward pass, as places in the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .forward_hooks import ForwardHooks, Hook
from .rows import RowSelection


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer whose rows count.

    Attributes:
        layer: the layer's name.
        edge: the place of its output in the autograd graph.
        shape: the output's shape.
        mask: which rows are real tokens, see `RowSelection`.
        inputs: its input ``[..., in]``, detached, where inputs are kept.
    """

    layer: str
    edge: GradientEdge
    shape: torch.Size
    mask: Tensor | None
    inputs: Tensor | None = None


class OutputRecorder(ForwardHooks):
    """Records the calls of layers whose rows count in a forward pass; a context manager.

    Args:
        layers: the layers by name.
        selection: which rows count.
        keep_inputs: keep the inputs as well.

    Attributes:
        calls: the calls, in order.
        frozen: names of layers whose output carried no gradient, in the order of their calls: they have no place.
    """

    def __init__(self, layers: Mapping[str, nn.Module], selection: RowSelection, *, keep_inputs: bool = False) -> None:
        super().__init__()
        self.calls: list[LayerCall] = []
        self.frozen: list[str] = []
        self._layers = layers
        self._selection = selection
        self._keep_inputs = keep_inputs

    def _hooks(self) -> Iterable[tuple[nn.Module, Hook]]:
        return [(module, self._hook(name)) for name, module in self._layers.items()]

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            mask = self._selection.mask_of(name, output)
            if not output.requires_grad:
                self.frozen.append(name)
            elif self._selection.counts(output, mask):
                given: Tensor = args[0] if args else next(iter(kwargs.values()))
                inputs = given.detach() if self._keep_inputs else None
                self.calls.append(LayerCall(name, get_gradient_edge(output), output.shape, mask, inputs))

        return hook

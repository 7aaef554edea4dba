"""Training that leaves padding out of the products of linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedConfig, PreTrainedModel

from regmean_lab.modules.base import TrainableModule
from regmean_lab.statistics import RowSelection

ATTENTION_ALONE = frozenset(
    {
        *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "mpnet", "roberta"),
        *("xlm-roberta", "mt5", "t5"),
    }
)
"""Architectures in which tokens reach each other by masked attention alone, so that nothing depends on padding.

Convolutions and Fourier transforms over tokens, in other architectures, read padding as well.
"""

LEAST_PADDING = 1 / 8
"""Share of a batch's tokens from which leaving them out saves more than gathering the others takes."""


class WithoutPadding(pl.Callback):
    """Has linear layers compute the rows of a training batch's real tokens only; those of padding become 0.

    Batches in random order are padding by half. What a model says of real tokens does not depend on it, and the
    gradient at it is 0, so that losses and gradients differ by rounding alone; dropout draws the same numbers. On
    another device than the processor it does nothing: it would have to be waited for which tokens are real.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._rows: RowSelection | None = None
        self._gathered: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put hooks on the linear layers."""
        if pl_module.device.type != "cpu":
            return
        for name, layer in _linear_layers(pl_module):
            self._handles.append(layer.register_forward_pre_hook(partial(self._gather, name)))
            self._handles.append(layer.register_forward_hook(self._scatter))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note which tokens of a batch are real, until it has its gradients: activations may be computed again."""
        if self._handles:
            assert isinstance(pl_module, TrainableModule)
            self._rows = RowSelection(pl_module.padding_mask(batch))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave other batches, those of evaluations, as they are."""
        self._rows = None
        self._gathered.clear()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the hooks."""
        self._remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._rows = [], None
        self._gathered.clear()

    def _gather(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
        """The rows ``[real tokens, in]`` of a layer's input ``[batch, tokens, in]``."""
        self._gathered.pop(layer, None)  # of a pass that ended before the layer's output: of activations computed again
        if self._rows is None or len(args) != 1:
            return None
        mask = self._rows.mask_of(name, args[0])
        if mask is None or args[0].shape[:-1] != mask.shape:  # one row an example, or DeBERTa's relative positions
            return None
        real = self._rows.indices(mask)
        if len(real) > (1 - LEAST_PADDING) * mask.numel():
            return None
        self._gathered[layer] = mask, real
        return (args[0].flatten(0, -2).index_select(0, real),)

    def _scatter(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The layer's output ``[batch, tokens, out]``, of its rows."""
        if layer not in self._gathered:
            return None
        mask, real = self._gathered.pop(layer)
        whole = output.new_zeros(mask.numel(), output.shape[-1]).index_copy_(0, real, output)
        return whole.view(*mask.shape, -1)


def _linear_layers(module: pl.LightningModule) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers that padding can be left out of, each once, with its name in its model."""
    seen = set()
    for model in module.modules():
        if not isinstance(model, PreTrainedModel) or not reads_no_padding(model.config):
            continue
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and layer not in seen:
                seen.add(layer)
                yield name, layer


def reads_no_padding(config: PreTrainedConfig) -> bool:
    """Whether nothing that a model of this architecture says of real tokens depends on padding."""
    return config.model_type in ATTENTION_ALONE and not getattr(config, "conv_kernel_size", 0)

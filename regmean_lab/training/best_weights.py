"""Keeping the weights of the best epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import pytorch_lightning as pl
import torch
from torch import Tensor

from regmean_lab.modules.base import DEV_SCORE, TrainableModule


class BestWeights(pl.Callback):
    """Keeps the weights with the best ``dev/score`` (the earliest, of equal ones) and puts them back after training.

    They are kept in memory on the CPU: Lightning's own checkpoints are pickles.

    Attributes:
        score: the best score so far, NaN before the first.
        epoch: the epoch (from 0) that it came from.
        scores: all metrics on dev at that epoch.
    """

    def __init__(self) -> None:
        self.score = math.nan
        self.epoch = -1
        self.scores: dict[str, float] = {}
        self._weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare this epoch with the best so far."""
        assert isinstance(pl_module, TrainableModule)
        score = float(trainer.callback_metrics[DEV_SCORE])
        if math.isnan(self.score) or score > self.score:
            self.score, self.epoch, self.scores = score, trainer.current_epoch, dict(pl_module.dev_scores)
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(pl_module)}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the best epoch's weights back into the module."""
        if self._weights:
            with torch.no_grad():
                for name, tensor in _tensors(pl_module):
                    tensor.copy_(self._weights[name])
            self._weights = {}


def _tensors(module: pl.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers; those that several parts of the module share come once."""
    return chain(module.named_parameters(), module.named_buffers())

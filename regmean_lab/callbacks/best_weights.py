"""Keeping the weights of the best epoch."""

from __future__ import annotations

import math

import pytorch_lightning as pl
from torch import Tensor

from regmean_lab.modules.base import DEV_SCORE, TaskModule


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
        assert isinstance(pl_module, TaskModule)
        score = float(trainer.callback_metrics[DEV_SCORE])
        if math.isnan(self.score) or score > self.score:
            self.score, self.epoch, self.scores = score, trainer.current_epoch, dict(pl_module.dev_scores)
            self._weights = {
                name: tensor.detach().to("cpu", copy=True) for name, tensor in pl_module.model.state_dict().items()
            }

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the best epoch's weights back into the module."""
        assert isinstance(pl_module, TaskModule)
        if self._weights:
            pl_module.model.load_state_dict(self._weights)
            self._weights = {}

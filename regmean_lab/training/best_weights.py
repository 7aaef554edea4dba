"""Keeping the weights of the best epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from regmean_lab.modules.base import TrainableModule
from regmean_lab.tracking.names import DEV_SCORE


class BestWeights(pl.Callback):
    """Keeps the weights with the best ``dev/score`` (the earliest, of equal ones) and puts them back after training.

    They are kept in memory on the CPU, and in the snapshots from which a killed training goes on.

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
            self.score, self.epoch, self.scores = score, epoch_of(trainer), dict(pl_module.dev_scores)
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(pl_module)}

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"score": self.score, "epoch": self.epoch, "scores": self.scores, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.score, self.epoch, self.scores = (state_dict[key] for key in ("score", "epoch", "scores"))
        self._weights = {name: tensor.cpu() for name, tensor in state_dict["weights"].items()}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the best epoch's weights back into the module."""
        if self._weights:
            with torch.no_grad():
                for name, tensor in _tensors(pl_module):
                    tensor.copy_(self._weights[name])
            self._weights = {}


def epoch_of(trainer: pl.Trainer) -> int:
    """The epoch (from 0) in which a trainer is; after training, their number.

    ``Trainer.current_epoch`` counts what its loop calls completed, which may lag by one when a training goes on.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return int(epochs.processed)


def _tensors(module: pl.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers; those that several parts of the module share come once."""
    return chain(module.named_parameters(), module.named_buffers())

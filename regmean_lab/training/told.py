"""Tells how far a training is."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from regmean_lab.modules.base import TrainableModule
from regmean_lab.utils.progress import is_listened, steps_done


class ToldSteps(pl.Callback):
    """Tells optimizer steps, and the key score of each evaluation, to whoever listens."""

    def __init__(self) -> None:
        self._total: int | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how many steps are done."""
        if is_listened():
            steps_done(trainer.global_step, self._steps(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the score."""
        if is_listened() and trainer.state.fn == "fit":
            assert isinstance(pl_module, TrainableModule)
            steps_done(trainer.global_step, self._steps(trainer), pl_module.dev_scores[pl_module.key_score])

    def _steps(self, trainer: pl.Trainer) -> int:
        if self._total is None:
            self._total = int(trainer.estimated_stepping_batches)
        return self._total

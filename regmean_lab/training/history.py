"""How a training went: loss and dev score as it proceeded, kept beside the member."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from regmean_lab.modules.base import TrainableModule


class History(pl.Callback):
    """Notes the loss and the key score on dev at each evaluation; without evaluations, the loss of each epoch.

    Of several processes each notes the loss of its own batches.

    Attributes:
        records: in order, each with ``step`` (optimizer steps so far), ``loss`` (mean over the batches since the record
            before; None without any) and, at an evaluation, ``score`` (times 100).
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self._sum: Tensor | None = None
        self._batches = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the loss, where it is: to read it after every batch would make a GPU wait."""
        # Lightning has divided it by the number of batches of a step.
        loss = outputs["loss"].detach().float() * trainer.accumulate_grad_batches
        self._sum = loss if self._sum is None else self._sum.to(loss) + loss
        self._batches += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note an evaluation that is part of training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            assert isinstance(pl_module, TrainableModule)
            self._note(trainer, score=float(pl_module.dev_scores[pl_module.key_score]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the loss of an epoch, of a training without evaluations."""
        if not trainer.limit_val_batches:
            self._note(trainer)

    def _note(self, trainer: pl.Trainer, **measured: float) -> None:
        loss = None if self._sum is None else float(self._sum) / self._batches
        self.records.append({"step": trainer.global_step, "loss": loss, **measured})
        self._sum, self._batches = None, 0

    def state_dict(self) -> dict[str, Any]:
        """What was noted so far."""
        total = None if self._sum is None else float(self._sum)
        return {"records": self.records, "sum": total, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.records, self._batches = list(state_dict["records"]), state_dict["batches"]
        self._sum = None if state_dict["sum"] is None else torch.tensor(state_dict["sum"])

"""What all task modules share: optimisation, dev scores, and the predictions of a test run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MetricCollection
from transformers import PreTrainedModel

from regmean_lab.evaluation.metrics import build_metrics, percentages, predictions
from regmean_lab.modules.optimization import Optimization
from regmean_lab.suites.base import Task

Batch = dict[str, Tensor]

DEV_SCORE = "dev/score"
"""Name under which the key score on dev is logged (mean over dev sets, times 100)."""


@dataclass(frozen=True)
class Predictions:
    """Everything a model says about one data set, in the order of its data loader.

    Attributes:
        logits: shape [examples, labels], float32, on the CPU.
        labels: shape [examples] or [examples, labels], on the CPU.
    """

    logits: Tensor
    labels: Tensor


class TaskModule(pl.LightningModule):
    """Trains and tests one Hugging Face model on one task.

    Batches are dicts of tensors: the model's inputs, and ``labels``.

    Args:
        model: the model, with a head for the task.
        task: what it predicts.
        optimization: how it is trained; None for a module that is only evaluated.
    """

    def __init__(self, model: PreTrainedModel, task: Task, optimization: Optimization | None = None) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.optimization = optimization
        self.dev_scores: dict[str, float] = {}
        self._dev_metrics: list[MetricCollection] = []
        self._collected: list[list[tuple[Tensor, Tensor]]] = []

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Logits of a batch."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss = self.loss(self(batch), batch["labels"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["labels"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's counts."""
        loaders: Any = self.trainer.val_dataloaders
        count = len(loaders) if isinstance(loaders, Sequence) else 1
        self._dev_metrics = [build_metrics(self.task).to(self.device) for _ in range(count)]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count one batch of a dev set."""
        self._dev_metrics[dataloader_idx].update(predictions(self.task, self(batch)), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Log every metric's mean over the dev sets, and the key score as ``dev/score``."""
        scores = [percentages(metrics) for metrics in self._dev_metrics]
        self.dev_scores = {name: sum(part[name] for part in scores) / len(scores) for name in scores[0]}
        self.log_dict({f"dev/{name}": value for name, value in self.dev_scores.items()})
        self.log(DEV_SCORE, self.dev_scores[self.task.key_score], prog_bar=True)

    def on_test_epoch_start(self) -> None:
        """Forget the last run's predictions."""
        loaders: Any = self.trainer.test_dataloaders
        count = len(loaders) if isinstance(loaders, Sequence) else 1
        self._collected = [[] for _ in range(count)]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep one batch's logits and labels."""
        self._collected[dataloader_idx].append((self(batch).float().cpu(), batch["labels"].cpu()))

    def predictions(self) -> list[Predictions]:
        """Predictions of the last test run, one for each data loader in order."""
        return [
            Predictions(torch.cat([logits for logits, _ in part]), torch.cat([labels for _, labels in part]))
            for part in self._collected
        ]

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self(batch)
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with its schedule, stepped after every optimizer step."""
        if self.optimization is None:
            raise RuntimeError("this module was made for evaluation only: it has no optimization settings")
        optimizer = self.optimization.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        scheduler = self.optimization.scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

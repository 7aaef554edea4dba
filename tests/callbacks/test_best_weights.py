from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from regmean_lab.modules import Optimization
from regmean_lab.modules.base import TrainableModule
from regmean_lab.training.best_weights import BestWeights


class Scripted(TrainableModule):
    """Its weight is the number of epochs trained, and its dev scores are given."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__(Optimization(0.1))
        self.weight = nn.Parameter(torch.zeros(2))
        self.tied = self.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.scripted = scores

    @property
    def key_score(self) -> str:
        return "f1"

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weight * 0).sum()

    def on_train_epoch_end(self) -> None:
        with torch.no_grad():
            self.weight.fill_(self.current_epoch + 1)
            self.get_buffer("count").fill_(self.current_epoch + 1)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        self.log_dev_scores({"f1": self.scripted[self.current_epoch], "epoch": float(self.current_epoch)})

    def on_validation_epoch_start(self) -> None:
        with torch.no_grad():  # validation comes before the end of the training epoch
            self.weight.fill_(self.current_epoch + 1)
            self.get_buffer("count").fill_(self.current_epoch + 1)


def fit(scores: list[float]) -> tuple[Scripted, BestWeights]:
    module, best = Scripted(scores), BestWeights()
    loader: DataLoader[Tensor] = DataLoader(torch.zeros(2, 1), batch_size=2)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=len(scores),
        callbacks=[best],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader, loader)
    return module, best


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [
        ([10.0, 30.0, 20.0], 1),
        ([10.0, 20.0, 30.0], 2),
        ([30.0, 20.0, 10.0], 0),
        ([10.0, 30.0, 30.0], 1),
        ([0.0, 0.0, 0.0], 0),
        ([-5.0, -7.0, -9.0], 0),
        ([math.nan, 5.0, 2.0], 1),
        ([5.0, math.nan, 2.0], 0),
    ],
)
def test_the_best_epochs_weights_are_put_back(scores: list[float], epoch: int) -> None:
    module, best = fit(scores)
    assert torch.equal(module.weight, torch.full((2,), epoch + 1.0))
    assert int(module.get_buffer("count")) == epoch + 1
    assert best.epoch == epoch
    assert best.score == scores[epoch]
    assert best.scores == {"f1": scores[epoch], "epoch": float(epoch)}
    assert module.tied is module.weight


def test_the_copy_is_let_go_after_training() -> None:
    _, best = fit([1.0, 2.0])
    assert best._weights == {}

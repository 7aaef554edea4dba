"""Where trainers for evaluation, statistics and merging are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.precision import HalfPrecision

from regmean_lab.config.groups import TrainerConfig
from regmean_lab.training.processes import trainer_devices
from regmean_lab.training.snapshots import TensorCheckpoints
from regmean_lab.utils.progress import shows_bars


def test_trainer(
    config: TrainerConfig, callbacks: Sequence[pl.Callback] = (), logger: Logger | bool = False
) -> pl.Trainer:
    """A one-device trainer for evaluation and the merge stage (whose statistics need gradients: no inference mode)."""
    return pl.Trainer(
        accelerator=config.accelerator,
        **trainer_devices(config),
        precision=config.precision,  # type: ignore[arg-type]  # any string that Lightning accepts
        deterministic=config.deterministic,
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=shows_bars(config.progress_bar),
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
    )


class EpochProgressBar(RichProgressBar):
    """Lightning's progress bar, whose epochs are counted from 1 and not from 0."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        description = f"Epoch {current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")
        return description.ljust(len(self.validation_description))  # so that lines do not flicker


class TitledProgressBar(TQDMProgressBar):
    """A progress bar that says what it is of, and goes when that is done.

    Args:
        title: what it is of.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title

    @property
    def test_description(self) -> str:
        """What is before the bar."""
        return self.title

    def init_test_tqdm(self) -> Any:
        """The bar."""
        bar = super().init_test_tqdm()
        bar.leave = False
        return bar


class HalfModel(HalfPrecision):
    """A model in half precision; its batches, whose labels may be real numbers, stay as they are."""

    def convert_input(self, data: Any) -> Any:
        """The batch itself."""
        return data


def trainer_like(
    trainer: pl.Trainer, callbacks: Sequence[pl.Callback], *, precision: str | None = None, title: str | None = None
) -> pl.Trainer:
    """A second trainer on the device of another one, which may be at work.

    Args:
        trainer: the other one; also says whether there are progress bars.
        callbacks: what it does.
        precision: its precision; None is that of the other one.
        title: of its progress bar; None for none.
    """
    device, own = trainer.strategy.root_device, precision or trainer.precision
    shown = title is not None and trainer.progress_bar_callback is not None
    half: Any = own
    precise: dict[str, Any] = {"precision": own}
    if own in ("bf16-true", "16-true"):
        precise = {"plugins": [HalfModel(half)]}
    return pl.Trainer(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        **precise,
        callbacks=[*callbacks, *([TitledProgressBar(title)] if shown and title is not None else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=shown,
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
    )


MIXED = {"bf16-true": "bf16-mixed", "16-true": "16-mixed"}
"""The precision in which a model is trained whose trainer runs it in a narrow one: its weights stay wide."""


def distillation_trainer(
    trainer: pl.Trainer, callbacks: Sequence[pl.Callback], *, steps: int, batches_a_step: int, evaluate_every: int
) -> pl.Trainer:
    """A trainer for distillation on the device of another one, which may be at work.

    Args:
        trainer: the other one; also says in which precision, and whether there are progress bars.
        callbacks: what it does beside training.
        steps: number of optimizer steps.
        batches_a_step: number of batches whose gradients are averaged for one step.
        evaluate_every: number of steps between evaluations on held-out text.
    """
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    return pl.Trainer(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        precision=MIXED.get(precision, precision),  # type: ignore[arg-type]  # any string that Lightning accepts
        max_epochs=-1,
        max_steps=steps,
        accumulate_grad_batches=batches_a_step,
        val_check_interval=evaluate_every * batches_a_step,  # Lightning counts batches
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        plugins=[TensorCheckpoints()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=trainer.progress_bar_callback is not None,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )

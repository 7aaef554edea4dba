"""Where trainers for evaluation, statistics and merging are made."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from regmean_lab.config.groups import TrainerConfig
from regmean_lab.training.processes import trainer_devices


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
        enable_progress_bar=config.progress_bar,
        enable_model_summary=False,
        inference_mode=False,
        use_distributed_sampler=False,
    )

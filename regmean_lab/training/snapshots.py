"""Training that goes on where a killed process stopped: at the end of its last epoch that was written down."""

from __future__ import annotations

import logging
import pickle
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from regmean_lab.utils.files import new_file

log = logging.getLogger(__name__)

SNAPSHOT = "last.ckpt"

SECONDS = 300.0
"""Between two snapshots, at least: epochs of small corpora take less time than writing one."""


class TensorCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all.

    They are read by ``torch.load(weights_only=True)``, which makes tensors, numbers, texts and collections of them, and
    calls nothing else that a file names. The only files that are read were written here, below the zoo's own folder.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        with new_file(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint."""
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return content


class Snapshots(pl.Callback):
    """Writes the state of training at the ends of epochs, and the state of random numbers with it.

    Args:
        folder: where.
        seconds: between two, at least.
    """

    def __init__(self, folder: Path, seconds: float | None = None) -> None:
        self.path = folder / SNAPSHOT
        self._seconds = SECONDS if seconds is None else seconds
        self._last = time.monotonic()
        self._random: list[Tensor] = []

    def found(self) -> Path | None:
        """The snapshot of a process that was killed; None where there is none that can be read."""
        if not self.path.exists():
            return None
        try:
            epoch = TensorCheckpoints().load_checkpoint(self.path, "cpu")["epoch"]
        except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s): training begins anew", self.path, error)
            return None
        log.info("training goes on after epoch %d, by %s", epoch + 1, self.path)
        return self.path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, if the last time is long enough ago, and training is not about to stop: nobody would be told again."""
        if not trainer.should_stop and time.monotonic() - self._last >= self._seconds:
            trainer.save_checkpoint(self.path)
            self._last = time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say that the epoch is over: Lightning counts it completed later, and where it counts steps, adds one more."""
        loops = checkpoint["loops"]["fit_loop"]
        for counts in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
            counts["completed"] = counts["processed"]
        batches = loops["epoch_loop.batch_progress"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        """The states of random numbers, which Lightning leaves out: dropout goes on where it stopped."""
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"random": [torch.get_rng_state(), *on_gpus]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the first batch comes."""
        self._random = state_dict["random"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put them back; what was drawn since then was drawn for setting up, of which there is no second time."""
        if self._random:
            own, *on_gpus = (state.cpu() for state in self._random)
            self._random = []
            torch.set_rng_state(own)
            if on_gpus and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(on_gpus[: torch.cuda.device_count()])
            # A loader draws a seed for its processes when an epoch begins, which here was before this.
            torch.empty((), dtype=torch.int64).random_()

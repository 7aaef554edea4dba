"""Training that goes on where a killed process stopped: after its last step that was written down."""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from regmean_lab.statistics import rank, world_size
from regmean_lab.utils.files import new_file

log = logging.getLogger(__name__)

SNAPSHOT = "last.ckpt"

SECONDS = 300.0
"""Between two snapshots, at least: epochs of small corpora take less time than writing one."""

BATCHES = 20
"""After how many batches several processes ask whether it is time to write: a question to the first of them."""


class TensorCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all.

    They are read by ``torch.load(weights_only=True)``, which makes tensors, numbers, texts and collections of them, and
    calls nothing else that a file names. The only files that are read were written here, below the zoo's own folder.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        # Through a file of Python's, whose error says why it could not be written; torch.save's own does not.
        with new_file(Path(path), "the state of training") as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint."""
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return content


@dataclass(frozen=True)
class Snapshot:
    """The state of a training.

    Attributes:
        path: its file.
        epoch: the epoch (from 0) that was begun.
        batches: how many of its batches were trained on.
    """

    path: Path
    epoch: int
    batches: int


class Snapshots(pl.Callback):
    """Writes the state of training as it goes, after a step or at the end of an epoch, with that of random numbers.

    Several processes write one file together.

    Args:
        folder: where.
        seconds: between two, at least.
    """

    def __init__(self, folder: Path, seconds: float | None = None) -> None:
        self.path = folder / SNAPSHOT
        self._seconds = SECONDS if seconds is None else seconds
        self._last = time.monotonic()
        self._random: list[Tensor] = []
        self._epoch_is_over = True

    def found(self) -> Snapshot | None:
        """The snapshot of processes that were killed, as many as there are now; None where there is none to be read."""
        if not self.path.exists():
            return None
        try:
            # Mapped: of all that is there, only a few numbers are looked at.
            checkpoint = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            processes = len(checkpoint["callbacks"][self.state_key]["random"])
            loops = checkpoint["loops"]["fit_loop"]
            epoch = loops["epoch_progress"]["current"]["processed"]
            batches = loops["epoch_loop.batch_progress"]["current"]["ready"]
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s): training begins anew", self.path, error)
            return None
        if processes != world_size():
            log.warning("%s is of %d processes, not of %d: training begins anew", self.path, processes, world_size())
            return None
        log.info("training goes on after %d epochs and %d batches, by %s", epoch, batches, self.path)
        return Snapshot(self.path, epoch, batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, if the last time is long enough ago, and this was a step that nothing but the next batch follows."""
        batches = trainer.fit_loop.total_batch_idx + 1
        every = trainer.val_check_batch if trainer.check_val_every_n_epoch is None else None
        validated = every is not None and batches % every == 0
        if (
            (batch_idx + 1) % trainer.accumulate_grad_batches
            or trainer.is_last_batch  # the epoch's end writes
            or (validated and trainer.limit_val_batches)
            or trainer.global_step == trainer.max_steps
            or (trainer.world_size > 1 and batches % BATCHES)
        ):
            return
        self._write_if_due(trainer, epoch_is_over=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, if the last time is long enough ago, and training is not about to stop: nobody would be told again."""
        if not trainer.should_stop:
            self._write_if_due(trainer, epoch_is_over=True)

    def _write_if_due(self, trainer: pl.Trainer, epoch_is_over: bool) -> None:
        # All processes write, or none: the clock is that of the first.
        if trainer.strategy.broadcast(time.monotonic() - self._last >= self._seconds):
            self._epoch_is_over = epoch_is_over
            trainer.save_checkpoint(self.path)
            self._last = time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say that the epoch is over: Lightning counts it completed later, and where it counts steps, adds one more."""
        if not self._epoch_is_over:
            return
        loops = checkpoint["loops"]["fit_loop"]
        for counts in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
            counts["completed"] = counts["processed"]
        batches = loops["epoch_loop.batch_progress"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    def state_dict(self) -> dict[str, Any]:
        """The states of each process's random numbers, which Lightning leaves out: dropout goes on where it stopped."""
        own = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])]
        states = [own]
        if world_size() > 1:
            states *= world_size()
            torch.distributed.all_gather_object(states, own)
        return {"random": states, "epoch_is_over": self._epoch_is_over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until the first batch comes."""
        self._random, self._epoch_is_over = state_dict["random"][rank()], state_dict["epoch_is_over"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put them back; what was drawn since then was drawn for setting up, of which there is no second time."""
        if self._random:
            own, *on_gpu = (state.cpu() for state in self._random)
            self._random = []
            torch.set_rng_state(own)
            if on_gpu and torch.cuda.is_available():
                torch.cuda.set_rng_state(on_gpu[0])
            loader: Any = trainer.train_dataloader
            if self._epoch_is_over and not loader.persistent_workers:
                # A loader without lasting processes draws a seed when an epoch begins, which here was before this.
                torch.empty((), dtype=torch.int64).random_()

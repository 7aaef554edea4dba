"""Training steps a second against the Trainer of transformers, on the same batches."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.figure import Figure, Setting, unmeasured
from benchmarks.measure import synchronize
from benchmarks.workload import Batch, Workload, minilm
from regmean_lab.config.groups import TrainerConfig, TrainingConfig
from regmean_lab.modules import Optimization, module_type
from regmean_lab.training.train import training_trainer

BATCH = 16
STEPS = 24
WARM_UP = 2
ROUNDS = 5
"""At least: steps take the same time but for what the machine does besides."""
GOAL = 1.05
LEARNING_RATE = 2e-5
"""Both: AdamW, a linear schedule, gradients clipped to a norm of 1."""


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family; none, with a note, without the package accelerate."""
    name = "training steps a second / Trainer of transformers"
    if importlib.util.find_spec("accelerate") is None:
        return [unmeasured(name, GOAL, "needs the package accelerate: pip install accelerate")]
    work = minilm(setting)
    batches = work.random_batches(BATCH)[:STEPS]
    rounds: list[tuple[float, float]] = []
    for number in range(setting.repeats if setting.pico else max(ROUNDS, setting.repeats)):
        if number % 2 == 0:
            ours = lightning_speed(work, batches)
            theirs = transformers_speed(work, batches)
        else:
            theirs = transformers_speed(work, batches)
            ours = lightning_speed(work, batches)
        rounds.append((ours, theirs))
    ratios = [ours / theirs for ours, theirs in rounds]
    middle = [median(column) for column in zip(*rounds, strict=True)]
    note = f"{middle[0]:.2f} / {middle[1]:.2f} steps of {BATCH} sentences a second"
    return [Figure(f"{name}, {work.name}", median(ratios), min(ratios), max(ratios), GOAL, True, note)]


def lightning_speed(work: Workload, batches: Sequence[Batch]) -> float:
    """Steps a second as the project trains."""
    stamps = _LightningStamps(work.device)
    optimization = Optimization(LEARNING_RATE, schedule="linear", warmup=0.0)
    module = module_type(work.module.task)(deepcopy(work.model), work.module.task, optimization)
    training = TrainingConfig(steps=len(batches), gradient_clip=1.0, selection="last")
    accelerator = "cpu" if work.device.type == "cpu" else "gpu"
    trainer = training_trainer(training, TrainerConfig(accelerator=accelerator, progress_bar=False), [stamps])
    trainer.fit(module.train(), _loader(batches))
    return stamps.speed()


def transformers_speed(work: Workload, batches: Sequence[Batch]) -> float:
    """Steps a second by the Trainer of transformers."""
    stamps = _TransformersStamps(work.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=len(batches),
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            max_grad_norm=1.0,
            use_cpu=work.device.type == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=10 * len(batches),
        )
        _GivenBatches(list(batches), model=deepcopy(work.model).train(), args=arguments, callbacks=[stamps]).train()
    return stamps.speed()


class _Stamps:
    """The times at which steps ended."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []

    def add(self) -> None:
        synchronize(self._device)
        self._times.append(time.perf_counter())

    def speed(self) -> float:
        """Steps a second, without those at the beginning."""
        steps = self._times[min(WARM_UP, len(self._times) - 1) - 1 :]
        return (len(steps) - 1) / (steps[-1] - steps[0])


class _LightningStamps(_Stamps, pl.Callback):
    def on_train_batch_end(self, *arguments: Any) -> None:
        self.add()


class _TransformersStamps(_Stamps, TrainerCallback):
    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        self.add()


class _GivenBatches(Trainer):
    """A Trainer that is given its batches."""

    def __init__(self, batches: list[Batch], **arguments: Any) -> None:
        self._batches = batches
        super().__init__(train_dataset=batches, **arguments)  # it wants one, to count

    def get_train_dataloader(self) -> DataLoader[Batch]:
        return _loader(self._batches)


def _loader(batches: Sequence[Batch]) -> DataLoader[Batch]:
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]  # a list is a map-style dataset

"""Joint training of one encoder on several tasks, with a head for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics import MetricCollection

from regmean_lab.metrics.metrics import build_metrics, percentages, predictions
from regmean_lab.models.pretrained import Checkpoint, head_parameters
from regmean_lab.modules.base import Batch, TaskModule, TrainableModule, module_type
from regmean_lab.modules.optimization import Optimization
from regmean_lab.statistics import Mask
from regmean_lab.suites.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEADS_FILE = "heads.safetensors"
"""Heads of all tasks: tensors ``<task>/<parameter>``, and in the metadata ``tasks``, each task's configuration."""

MEAN_KEY_SCORE = "mean_key_score"


class MultiTaskModule(TrainableModule):
    """Trains several modules, one per task, whose models share their encoder.

    A training batch comes from one task and is prefixed with the task index: see
    :class:`~regmean_lab.suites.multi_task_data.MultiTaskDataModule`. Losses are not weighted. Dev set i belongs to
    task i. The score on dev is the mean of the tasks' key scores.

    Args:
        parts: a module for each task, by name. From the second on, models get the first one's encoder for their own.
        optimization: how all of them are trained.
    """

    def __init__(self, parts: Mapping[str, TaskModule], optimization: Optimization | None = None) -> None:
        super().__init__(optimization)
        self.names = tuple(parts)
        self.parts = nn.ModuleList(parts.values())
        for part in self._parts[1:]:
            share_encoder(part.model, self._parts[0].model)
        self._dev_metrics: list[MetricCollection] = []

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, tasks: Mapping[str, Task], optimization: Optimization | None = None
    ) -> MultiTaskModule:
        """A pretrained encoder with a new head for each task, drawn from torch's global random state in order."""
        parts = {}
        for name, task in tasks.items():
            module = module_type(task)
            parts[name] = module(module.new_model(checkpoint, task), task)
        return cls(parts, optimization)

    @property
    def _parts(self) -> list[TaskModule]:
        return cast(list[TaskModule], list(self.parts))

    @property
    def key_score(self) -> str:
        """The mean of the tasks' key scores."""
        return MEAN_KEY_SCORE

    def save(self, folder: Path) -> None:
        """Write the first task's whole model as a Hugging Face folder, and all tasks' heads beside it."""
        first = self._parts[0]
        first.save(folder)
        common = first.model.config.to_dict()
        heads: dict[str, Tensor] = {}
        configurations = {}
        for name, part in zip(self.names, self._parts, strict=True):
            weights = part.model.state_dict()
            heads.update({f"{name}/{key}": weights[key].contiguous() for key in head_parameters(part.model)})
            own = part.model.config.to_dict()
            configurations[name] = {key: value for key, value in own.items() if common.get(key) != value}
        save_file(heads, folder / HEADS_FILE, {"format": "pt", "tasks": json.dumps(configurations)})

    def padding_mask(self, batch: tuple[int, Batch]) -> Mask:
        """That of the batch's task."""
        number, inputs = batch
        return self._parts[number].padding_mask(inputs)

    def training_step(self, batch: tuple[int, Batch], batch_idx: int) -> Tensor:
        """Loss of one batch of one task."""
        number, inputs = batch
        loss, size = self._parts[number].batch_loss(inputs), len(inputs["labels"])
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log(f"train/loss/{self.names[number]}", loss, batch_size=size)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's counts."""
        self._dev_metrics = [build_metrics(part.task).to(self.device) for part in self._parts]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count one batch of a dev set."""
        part = self._parts[dataloader_idx]
        self._dev_metrics[dataloader_idx].update(predictions(part.task, part.evaluate(batch)), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Log every task's metrics as ``dev/<task>/<metric>``, and the mean of the key scores as ``dev/score``."""
        scores = {}
        keys = []
        for name, part, metrics in zip(self.names, self._parts, self._dev_metrics, strict=True):
            measured = percentages(part.task, metrics)
            scores.update({f"{name}/{metric}": value for metric, value in measured.items()})
            keys.append(measured[part.task.key_score])
        self.log_dev_scores({**scores, MEAN_KEY_SCORE: sum(keys) / len(keys)})


def share_encoder(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Give a model the encoder (the base model) of another of the same class for its own; heads stay."""
    setattr(model, model.base_model_prefix, other.base_model)


def load_part(folder: Path, name: str, task: Task) -> TaskModule:
    """One task's model from a folder that :meth:`MultiTaskModule.save` wrote, as a module that can be tested."""
    module = module_type(task)
    first = module.load_model(folder)
    with safe_open(folder / HEADS_FILE, framework="pt") as file:
        own: dict[str, Any] = json.loads(file.metadata()["tasks"])[name]
        model = type(first)(type(first.config).from_dict({**first.config.to_dict(), **own}))
        share_encoder(model, first)
        weights = model.state_dict()
        with torch.no_grad():
            for key in head_parameters(model):
                weights[key].copy_(file.get_tensor(f"{name}/{key}"))
    return module(model.eval(), task)

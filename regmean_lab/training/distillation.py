"""Distillation of several members into one model: what is trained, on which text, and what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from regmean_lab.merging.distill import Distill
from regmean_lab.models.pretrained import ModelError
from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import Batch
from regmean_lab.modules.distillation import HELD_OUT, DistillationModule, TaughtBatch
from regmean_lab.modules.reading_together import Teachers
from regmean_lab.tracking.environment import versions
from regmean_lab.tracking.names import DEV_SCORE
from regmean_lab.training.best_weights import BestWeights
from regmean_lab.training.snapshots import Snapshots
from regmean_lab.training.trainers import distillation_trainer


class TextStream(Protocol):
    """Text of one member, without an end: the same batches for the same member, settings and number."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the batches."""

    def batch(self, step: int) -> Batch:
        """The text of one step, from 0."""

    def held_out(self) -> Sequence[Batch]:
        """Text that is in no step."""


@dataclass(frozen=True)
class Taught:
    """One member, from whom the merge learns.

    Attributes:
        load: loads it as a module.
        weights: its weights by name, read when they are asked for.
        text: its text.
        coefficient: its weight in the loss; all add up to 1.
        known: of a multi-label head, which labels it knows; None: all.
    """

    load: Callable[[], TaskModule]
    weights: Mapping[str, Tensor]
    text: TextStream
    coefficient: float
    known: Sequence[bool] | None


@dataclass(frozen=True)
class Distilled:
    """What distillation gives.

    Attributes:
        student: the model, with the first member's own parameters where members keep some.
        record: how it went: held-out divergence before and after, the step of the weights, steps, seconds.
    """

    student: TaskModule
    record: dict[str, Any]


class _Steps(IterableDataset[TaughtBatch]):
    """The text of all members for one step after the other, as batches of one member each."""

    def __init__(self, texts: Sequence[TextStream], first: int) -> None:
        self.texts = texts
        self.first = first

    def __iter__(self) -> Iterator[TaughtBatch]:
        step = self.first
        while True:
            for number, text in enumerate(self.texts):
                yield number, text.batch(step)
            step += 1


def distil(
    start: Mapping[str, Tensor],
    members: Sequence[Taught],
    settings: Distill,
    trainer: pl.Trainer,
    snapshots: Path | None = None,
) -> Distilled:
    """Train a merge until it says what its members say.

    In memory are the merge with its gradients and its optimizer, one member, and the text of a step; what members keep
    of their own besides. Models run without dropout.

    Args:
        start: the merged parameters by name; what it lacks of a model, members keep of their own.
        members: the members, in an order that does not depend on how they were named.
        settings: how.
        trainer: on whose device, and in which precision; it may be at work.
        snapshots: where the state of training is written as it goes, and looked for first; None: nowhere.

    Raises:
        ModelError: when the weights are not finite.
    """
    started = time.perf_counter()
    device = trainer.strategy.root_device
    teachers = Teachers(modules_of(members, start, device), [member.weights for member in members])
    module = DistillationModule(
        modules_of(members, start, device),
        teachers,
        start,
        settings,
        [member.coefficient for member in members],
        [member.known for member in members],
    ).to(device)
    best, kept = BestWeights(), None if snapshots is None else Snapshots(snapshots)
    stopping = EarlyStopping(
        DEV_SCORE,
        mode="max",
        patience=settings.steps if settings.patience is None else settings.patience,
        check_finite=False,
        check_on_train_epoch_end=False,
    )
    callbacks: list[pl.Callback] = [best, stopping, *([] if kept is None else [kept])]
    fit = distillation_trainer(
        trainer,
        callbacks,
        steps=settings.steps,
        batches_a_step=len(members),
        evaluate_every=min(settings.evaluate_every, settings.steps),
    )
    texts = [member.text for member in members]
    held_out: Any = [(number, batch) for number, text in enumerate(texts) for batch in text.held_out()]
    validation: DataLoader[Any] = DataLoader(held_out, batch_size=None)
    snapshot = None if kept is None else kept.found()
    with torch.enable_grad():  # the trainer that asks may be testing
        fit.validate(module, validation, verbose=False)
        before = dict(module.dev_scores)
        stopping.best_score = torch.tensor(before[module.key_score])  # what is no better than the start is no progress
        first = 0 if snapshot is None else snapshot.batches // len(members)
        steps: DataLoader[Any] = DataLoader(_Steps(texts, first), batch_size=None)
        fit.fit(module, steps, validation, ckpt_path=None if snapshot is None else snapshot.path)
    return _finished(module, best, fit, before, time.perf_counter() - started)


def _finished(
    module: DistillationModule,
    best: BestWeights,
    fit: pl.Trainer,
    before: Mapping[str, float],
    seconds: float,
) -> Distilled:
    values = module.cpu().shared.by_name()
    if broken := [name for name, value in values.items() if not torch.isfinite(value).all()]:
        raise ModelError(
            f"distillation diverged: NaN or infinity in {broken[0]} and {len(broken) - 1} other parameters; try a "
            "lower method.learning_rate"
        )
    after = best.scores or dict(before)
    record = {
        "scores": {HELD_OUT: after[HELD_OUT], f"{HELD_OUT}_of_start": before[HELD_OUT]},
        "key_score": HELD_OUT,
        "steps": fit.global_step,
        "seconds": seconds,
        "versions": versions(),
    }
    return Distilled(module.students[0].cpu(), record)


def modules_of(members: Sequence[Taught], merged: Mapping[str, Tensor], device: torch.device) -> Iterator[TaskModule]:
    """A module for each member, in evaluation mode, loaded when it is asked for; one for all, where they keep nothing.

    Args:
        members: the members.
        merged: the merged parameters by name; what it lacks of a model, members keep of their own.
        device: where to.
    """
    first = members[0].load().to(device).eval()
    shared = all(name in merged or not value.is_floating_point() for name, value in _stored(members[0], first))
    yield first
    for member in members[1:]:
        yield first if shared else member.load().to(device).eval()


def _stored(member: Taught, module: TaskModule) -> Iterator[tuple[str, Tensor]]:
    """A module's tensors that a member stores under their own names."""
    targets = module.model.state_dict(keep_vars=True)
    return ((name, targets[name]) for name in member.weights if name in targets)

"""Distillation as Lightning trains it: one model learns from several teachers, each on text of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from regmean_lab.merging.distill import Distill
from regmean_lab.merging.distillation_losses import (
    anchor_penalty,
    hidden_difference,
    output_divergence,
    position_divergence,
)
from regmean_lab.modules.base import Batch, TaskModule, TrainableModule
from regmean_lab.modules.optimization import Optimization
from regmean_lab.modules.reading import ReadingModule
from regmean_lab.modules.reading_together import Said, SharedParameters, answered, say
from regmean_lab.statistics import Mask, StatisticsError
from regmean_lab.suites.base import IGNORED

HELD_OUT = "kl"
"""Name of the mean divergence from the teachers on held-out text, under which records have it."""

TaughtBatch = tuple[int, Batch]
"""The number of a teacher, and text of its own."""


def divergence_of(
    module: TaskModule, batch: Batch, student: Said, teacher: Said, known: Sequence[bool] | None, temperature: float
) -> Tensor | None:
    """KL(teacher ‖ student) of what both say of a batch, a scalar; None of models without outputs.

    Args:
        module: the student or the teacher: how outputs are read.
        batch: the batch.
        student: what the student says.
        teacher: what the teacher says.
        known: of a multi-label head, which labels the teacher knows; None: all.
        temperature: see :func:`~regmean_lab.merging.distillation_losses.output_divergence`.
    """
    if not student.outputs:
        return None
    if len(student.outputs) == 2:  # beginning and end
        there = batch["attention_mask"].bool()
        ends = zip(student.outputs, teacher.outputs, strict=True)
        return torch.stack([position_divergence(one, other, there, temperature) for one, other in ends]).mean()
    (one,), (other,) = student.outputs, teacher.outputs
    try:
        likelihood = module.likelihood
    except StatisticsError:  # a masked language model, say: tokens are predicted
        likelihood = "categorical"
    counted = _counted(module, batch)
    if likelihood == "bernoulli" and known is not None:
        counted = torch.tensor(list(known), device=one.device)
    return output_divergence(one, other, likelihood, temperature, counted)


def _counted(module: TaskModule, batch: Batch) -> Tensor | None:
    """Which rows of outputs count: of tokens, those that are labelled or written; None of whole texts."""
    kind = module.task.kind
    if kind not in ("answers", "text", "token_labels", "unlabelled"):
        return None
    labels = batch.get("target" if kind == "answers" else "labels")
    if kind == "unlabelled" or labels is None:  # drawn text has none
        return batch["attention_mask"].bool()
    return labels != IGNORED


def hidden_loss(module: TaskModule, batch: Batch, student: Said, teacher: Said, layers: str) -> Tensor | None:
    """Mean of the relative squared differences of hidden states, a scalar; None where a model shows none."""
    own, theirs = (said.hidden if layers == "all" else said.hidden[-1:] for said in (student, teacher))
    rows = _rows(module.gram_mask(batch))
    parts = [hidden_difference(one, other, rows) for one, other in zip(own, theirs, strict=True)]
    if student.encoded is not None and teacher.encoded is not None:
        parts.append(hidden_difference(student.encoded, teacher.encoded, batch["attention_mask"].bool()))
    return torch.stack(parts).mean() if parts else None


def _rows(mask: Mask) -> Tensor:
    """Real tokens of what the last part of a model reads."""
    found = mask["*"] if isinstance(mask, Mapping) else mask
    assert isinstance(found, Tensor)
    return found.bool()


class DistillationModule(TrainableModule):
    """Trains the parameters of a merge.

    Args:
        students: for each teacher the module that learns from it, with its own parameters where it keeps some; they may
            be one. All share the parameters that are trained.
        teachers: gives each teacher.
        start: the merged parameters by name, where training begins.
        settings: how.
        weights: of each teacher in the loss; they add up to 1.
        known: of each teacher, of a multi-label head, which labels it knows; None: all.
    """

    def __init__(
        self,
        students: Iterable[TaskModule],
        teachers: Callable[[int], TaskModule],
        start: Mapping[str, Tensor],
        settings: Distill,
        weights: Sequence[float],
        known: Sequence[Sequence[bool] | None],
    ) -> None:
        super().__init__(Optimization(settings.learning_rate, schedule="linear", warmup=settings.warmup))
        self.shared = SharedParameters(start)
        self.settings = settings
        self.students = self.shared.put_into(students)  # a list: they are no parts of this module
        self._start = [value.detach().clone() for value in self.shared.values] if settings.anchor else []
        self._teachers = teachers
        self._weights = list(weights)
        self._known = list(known)
        self._sums: dict[int, list[float]] = {}

    @property
    def key_score(self) -> str:
        """Minus the divergence, so that more is better."""
        return f"-{HELD_OUT}"

    def training_step(self, batch: TaughtBatch, batch_idx: int) -> Tensor:
        """The weighted loss of one teacher's text, times the number of teachers: a step is a mean over them."""
        number, text = batch[0], self._answered(*batch)
        settings, student = self.settings, self.students[number]
        student_said, teacher_said = self._said(number, text, hidden=settings.hidden > 0)
        loss = self.shared.values[0].new_zeros(())
        told = divergence_of(student, text, student_said, teacher_said, self._known[number], settings.temperature)
        if told is not None and settings.logits:
            loss = loss + settings.logits * told
        if settings.hidden:
            states = hidden_loss(student, text, student_said, teacher_said, settings.hidden_layers)
            loss = loss if states is None else loss + settings.hidden * states
        self.log("train/loss", loss, prog_bar=True, batch_size=len(text["input_ids"]))
        loss = len(self._weights) * self._weights[number] * loss
        if settings.anchor:
            loss = loss + settings.anchor * anchor_penalty(list(self.shared.values), self._start)
        return loss

    def _said(self, number: int, text: Batch, *, hidden: bool) -> tuple[Said, Said]:
        with torch.no_grad():
            teacher = say(self._teachers(number), text, hidden=hidden)
        return say(self.students[number], text, hidden=hidden), teacher

    def _answered(self, number: int, text: Batch) -> Batch:
        with torch.no_grad():
            return answered(self._teachers(number), text)

    def on_validation_epoch_start(self) -> None:
        """Forget the last measurement."""
        self._sums = {number: [0.0, 0.0] for number in range(len(self._weights))}

    def validation_step(self, batch: TaughtBatch, batch_idx: int) -> None:
        """Add up a teacher's divergence on held-out text: of outputs, or where there are none, of hidden states."""
        number, text = batch[0], self._answered(*batch)
        student = self.students[number]
        headless = isinstance(student, ReadingModule)
        said = self._said(number, text, hidden=headless)
        value = divergence_of(student, text, *said, self._known[number], 1.0)
        if value is None:
            value = hidden_loss(student, text, *said, "last")
        assert value is not None
        sums, count = self._sums[number], len(text["input_ids"])
        sums[0] += float(value) * count
        sums[1] += count

    def on_validation_epoch_end(self) -> None:
        """The weighted mean over teachers."""
        values = [total / max(count, 1.0) for total, count in self._sums.values()]
        mean = sum(weight * value for weight, value in zip(self._weights, values, strict=True))
        each = {f"{HELD_OUT}_{number}": value for number, value in enumerate(values)}
        self.log_dev_scores({self.key_score: -mean, HELD_OUT: mean, **each})

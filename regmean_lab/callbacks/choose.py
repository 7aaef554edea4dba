"""The choice among merges within the merge stage: every candidate is merged, and judged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from regmean_lab.merging import Layout, MergeMember, MergeMethod
from regmean_lab.merging.auto import Auto, candidates_of, work_of
from regmean_lab.merging.base import matches
from regmean_lab.merging.choice import Candidate, Choice, choose, quadratic_errors, relative_errors
from regmean_lab.merging.distill import mixed
from regmean_lab.merging.merge import MergedParameter
from regmean_lab.modules import TaskModule
from regmean_lab.modules.base import Batch
from regmean_lab.modules.distillation import divergence_of, hidden_loss
from regmean_lab.modules.reading_together import Said, SharedParameters, Teachers, answered, say
from regmean_lab.training.distillation import Taught, modules_of

log = logging.getLogger(__name__)

Merge = Callable[[MergeMethod], dict[str, Tensor]]
"""Merges by a method; the merged parameters by name."""


def chosen_merge(
    auto: Auto,
    merge: Merge,
    count: int,
    device: torch.device,
    *,
    readers: Sequence[Taught] = (),
    evidence: tuple[Sequence[MergeMember], Layout] | None = None,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[dict[str, Tensor], Choice]:
    """The merge that is chosen, and why.

    In memory are three merges and one member, and what a batch takes.

    Args:
        auto: what is tried, and what counts.
        merge: merges by a candidate's method.
        count: number of members.
        device: where models run.
        readers: for the divergence, the members with their text.
        evidence: for the quadratic criterion, the members with their Gram matrices, and the layout.
        precision: the context in which models run.
    """
    candidates, merge = candidates_of(auto, count), _Last(merge)
    log.info("%s", work_of(auto, count))
    mean = merge(candidates[0].method)
    if not auto.by_text:
        assert evidence is not None
        values = _quadratic(candidates, merge, mean, *evidence, excluded=auto.exclude_layers)
    else:
        judge = _Judge(readers, mean, device, precision)
        values = [judge.values(_made(candidate, merge, mean)) for candidate in candidates]
    found = choose(candidates, values, auto.margin, "divergence" if auto.by_text else "quadratic")
    for line in [*found.lines(), found.reason()]:
        log.info("%s", line)
    return _made(found.candidate, merge, mean), found


class _Last:
    """Merges, but for what it merged last: candidates differ in what is mixed in, too."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._last: tuple[MergeMethod, dict[str, Tensor]] | None = None

    def __call__(self, method: MergeMethod) -> dict[str, Tensor]:
        if self._last is None or self._last[0] != method:
            self._last = None  # not two of them in memory
            self._last = method, self._merge(method)
        return self._last[1]


def _made(candidate: Candidate, merge: Merge, mean: dict[str, Tensor]) -> dict[str, Tensor]:
    """A candidate's parameters."""
    return mixed(merge(candidate.method), mean, candidate.mix) if candidate.mix else merge(candidate.method)


def _quadratic(
    candidates: Sequence[Candidate],
    merge: Merge,
    mean: dict[str, Tensor],
    members: Sequence[MergeMember],
    layout: Layout,
    excluded: Sequence[str],
) -> list[list[Tensor]]:
    judged = {name for name, layer in layout.linear.items() if not matches(layer.name, excluded)}

    def errors(merged: dict[str, Tensor]) -> dict[str, list[float]]:
        parameters = (MergedParameter(name, value) for name, value in merged.items() if name in judged)
        return quadratic_errors(parameters, members, layout)

    of_mean = errors(mean)
    return [relative_errors(errors(_made(candidate, merge, mean)), of_mean) for candidate in candidates]


class _Judge:
    """Divergences of merges from the members, text by text."""

    def __init__(
        self,
        members: Sequence[Taught],
        mean: dict[str, Tensor],
        device: torch.device,
        precision: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.members = members
        self.precision = precision
        self.shared = SharedParameters(mean)
        self.students = self.shared.put_into(modules_of(members, mean, device))
        self.teachers = Teachers(modules_of(members, mean, device), [member.weights for member in members])
        self.device = device

    def values(self, merged: dict[str, Tensor]) -> list[Tensor]:
        """Of each member, KL(member ‖ merge) on each of its held-out texts, shape [texts]."""
        self.shared.copy_(merged)
        return [self._of(number) for number in range(len(self.members))]

    def _of(self, number: int) -> Tensor:
        member, student, found = self.members[number], self.students[number], []
        with torch.no_grad(), self.precision():
            for held in member.text.held_out():
                batch = answered(self.teachers(number), student.transfer_batch_to_device(held, self.device, 0))
                teacher = say(self.teachers(number), batch, hidden=True)
                own = say(student, batch, hidden=True)
                for row in range(len(batch["input_ids"])):
                    found.append(_row_value(student, batch, own, teacher, member.known, row))
        return torch.tensor(found, dtype=torch.float64)


def _row_value(
    module: TaskModule, batch: Batch, own: Said, teacher: Said, known: Sequence[bool] | None, row: int
) -> float:
    """The divergence on one text of a batch; of models without outputs, that of hidden states."""

    def one(said: Said) -> Said:
        encoded = None if said.encoded is None else said.encoded[row : row + 1]
        return replace(
            said,
            outputs=tuple(part[row : row + 1] for part in said.outputs),
            hidden=tuple(part[row : row + 1] for part in said.hidden),
            encoded=encoded,
        )

    text = {name: value[row : row + 1] for name, value in batch.items()}
    value = divergence_of(module, text, one(own), one(teacher), known, 1.0)
    if value is None:
        value = hidden_loss(module, text, one(own), one(teacher), "last")
    assert value is not None
    return float(value)

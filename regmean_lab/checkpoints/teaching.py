"""Merges of checkpoints that go on from another merge, or choose one: by what the checkpoints say of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from regmean_lab.callbacks.choose import chosen_merge
from regmean_lab.callbacks.distill import distillation_note
from regmean_lab.callbacks.refine import TextReading
from regmean_lab.callbacks.text_streams import text_streams
from regmean_lab.checkpoints.alignment import AlignedWeights, RowOrder
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.merged_text import read_module
from regmean_lab.checkpoints.text_plan import TextPlan
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.merging import Layout, MergeMember, MergeMethod
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.choice import Choice
from regmean_lab.merging.distill import Distill, mixed
from regmean_lab.training.distillation import Taught, distil
from regmean_lab.training.trainers import test_trainer


@dataclass(frozen=True)
class Readers:
    """Checkpoints that read text.

    Attributes:
        plan: how text is read.
        members: the checkpoints.
        orders: of each, by parameter, the order of its rows in the merged model.
        lead: the member whose vocabulary the merged model has.
    """

    plan: TextPlan
    members: Sequence[Member]
    orders: Sequence[Mapping[str, RowOrder]]
    lead: Member

    def taught(self, method: Distill | Auto, coefficients: Sequence[float] | None) -> list[Taught]:
        """Each with its text, as a teacher.

        Args:
            method: whose text it reads.
            coefficients: one weight a member; None: equal ones.
        """
        plan = self.plan
        reading = TextReading(tokenizer=lambda: plan.tokenizer, max_length=plan.max_length)
        streams = text_streams([None] * len(self.members), method, reading, plan.counts, plan.task)
        found = []
        for number, (member, order, stream) in enumerate(zip(self.members, self.orders, streams, strict=True)):
            names = {name: name for name in member.weights}
            view = AlignedWeights(member.weights, names, order, filler=self.lead.weights)
            share = 1 / len(self.members) if coefficients is None else coefficients[number]
            found.append(Taught(partial(read_module, plan, member, self.lead, view), view, stream, share, None))
        return found


def distilled_merge(
    method: Distill,
    start: Mapping[str, Tensor],
    readers: Readers,
    trainer: TrainerConfig,
    snapshots: Path | None = None,
) -> tuple[dict[str, Tensor], str]:
    """A merge after distillation, in the dtypes of the start, and what a user should know of it.

    Args:
        method: how.
        start: the merge that it begins with.
        readers: the checkpoints, in an order that does not depend on how they were named.
        trainer: device, precision and progress bars.
        snapshots: where the state of training is kept; None: nowhere.
    """
    taught = readers.taught(method, method.coefficients)
    done = distil(start, taught, method, test_trainer(trainer), snapshots)
    state = done.student.model.state_dict()
    trained = {name: state[name].to(value.device) for name, value in start.items()}
    return mixed(trained, start, method.mix), distillation_note(method, done.record)


def chosen_of_checkpoints(
    auto: Auto,
    merge: Callable[[MergeMethod], dict[str, Tensor]],
    members: Sequence[MergeMember],
    layout: Layout,
    readers: Readers | None,
    device: torch.device,
) -> tuple[dict[str, Tensor], Choice]:
    """The merge that is chosen, and why.

    Args:
        auto: what is tried, and what counts.
        merge: merges by a method.
        members: the members with their statistics.
        layout: of the merged model.
        readers: the checkpoints, where they are judged by text.
        device: where to compute.
    """
    return chosen_merge(
        auto,
        merge,
        len(members),
        device,
        readers=[] if readers is None else readers.taught(auto, None),
        evidence=(members, layout),
    )

"""Merges of checkpoints that go on from another merge, or choose one: by what the checkpoints say of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from regmean_lab.callbacks.choose import chosen_merge
from regmean_lab.callbacks.distill import distillation_note
from regmean_lab.callbacks.refine import TextReading
from regmean_lab.callbacks.requests import published_path
from regmean_lab.callbacks.text_streams import text_streams
from regmean_lab.checkpoints.alignment import AlignedWeights, RowOrder
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.merged_text import TextPlan, read_module, whole_models
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.merging import Layout, MergeMember, MergeMethod, method_types
from regmean_lab.merging.auto import CANDIDATES, SIMPLE, Auto
from regmean_lab.merging.choice import Choice
from regmean_lab.merging.distill import Distill, mixed
from regmean_lab.statistics import KINDS
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
        streams = text_streams([None] * len(self.members), method, reading, plan.counts)
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


def choice_problems(auto: Auto, members: Sequence[Member], *, adapter: bool) -> list[str]:
    """Why nothing can be chosen by Gram matrices; where it is chosen by text, that is told of the text.

    Args:
        auto: what was asked for.
        members: the checkpoints.
        adapter: whether a LoRA adapter is written.
    """
    if auto.needs_text:
        return []
    found = [whole_models(auto)] if adapter else []
    if any(member.sentence is not None for member in members):
        found.append("method: auto does not choose for modules of sentence-transformers; name a method")
    return found


def with_what_is_published(auto: Auto, members: Sequence[Member]) -> tuple[Auto, list[str]]:
    """What can be tried and judged with the statistics that all checkpoints have, and what a user should know of it.

    Args:
        auto: what was asked for; what it says stays.
        members: the checkpoints.
    """
    there = [
        kind
        for kind in KINDS
        if all(
            member.source.folder is not None and published_path(member.source.folder, kind).is_file()
            for member in members
        )
    ]
    notes = []
    if auto.candidates is None:
        able = [name for name in CANDIDATES if set(method_types()[name]().statistics) <= set(there)]
        if lost := [name for name in CANDIDATES if name not in able]:
            notes.append(f"not tried, as not all checkpoints have statistics for it: {', '.join(lost)}")
        auto = replace(auto, candidates=able or [SIMPLE])
    if auto.criterion is None and set(auto.text_statistics) - set(there) and "gram" in there:
        auto = replace(auto, criterion="quadratic")
        notes.append("chosen by Gram matrices, as not all checkpoints have counts of tokens")
    return auto, notes

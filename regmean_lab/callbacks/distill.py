"""Distillation within the merge stage: what it needs of members, and the zoo entry in which its result is kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor

from regmean_lab.merging import MergeMethod
from regmean_lab.merging.distill import Distill, mixed
from regmean_lab.merging.parameters import LayerDiagnostics
from regmean_lab.merging.starting_merge import permuted
from regmean_lab.merging.weights import SafetensorsWeights
from regmean_lab.modules import TaskModule
from regmean_lab.training.distillation import Taught, TextStream, distil
from regmean_lab.utils.later_settings import without_later_settings
from regmean_lab.zoo import Zoo, ZooEntry

log = logging.getLogger(__name__)

DESCRIPTION_FORMAT = 1
"""Changes when the same description would give other weights."""


class Source(Protocol):
    """A member as the merge stage has it."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def entry(self) -> ZooEntry:
        """Its entry in the zoo."""

    @property
    def annotated(self) -> tuple[bool, ...] | None:
        """Which labels its training data annotates; None where that makes no difference."""

    @property
    def load(self) -> Callable[[], TaskModule]:
        """Loads it as a module."""


@dataclass(frozen=True)
class Order:
    """Members in an order that does not depend on how they were named, and the method for them in this order."""

    members: list[Any]
    method: MergeMethod


def in_fixed_order(members: Sequence[Source], method: MergeMethod) -> Order:
    """For distillation, the members in the order of their addresses; otherwise as they are.

    Training makes more of the differences that rounding leaves than any other method.
    """
    if not isinstance(method, Distill):
        return Order(list(members), method)
    numbers = sorted(range(len(members)), key=lambda number: (members[number].entry.address, members[number].name))
    count = len(members)
    fitting = not method.number_problems(count)
    return Order([members[number] for number in numbers], permuted(method, numbers) if fitting else method)


@dataclass(frozen=True)
class Distillation:
    """One distillation: its members, and all else that determines it.

    Attributes:
        method: how.
        members: in a fixed order.
        texts: the text of each.
        description: what else determines the result.
        trainer: on whose device, and in which precision; it may be at work.
    """

    method: Distill
    members: Sequence[Source]
    texts: Sequence[TextStream]
    description: Mapping[str, Any]
    trainer: pl.Trainer

    def describe(self) -> dict[str, Any]:
        """Everything that determines the trained weights: what their address in the zoo is a hash of."""
        settings = asdict(replace(self.method, mix=0.0))  # the start is mixed in afterwards
        return {
            "distillation": DESCRIPTION_FORMAT,
            "method": without_later_settings(settings, "method."),
            "members": [
                {"address": member.entry.address, "annotated": member.annotated, "text": text.fingerprint}
                for member, text in zip(self.members, self.texts, strict=True)
            ],
            "precision": str(self.trainer.precision),
            **self.description,
        }

    def find_or_train(self, merge: Callable[[], Start]) -> tuple[ZooEntry, bool]:
        """The result in the zoo of the members, trained now if it is not there; and whether it was.

        Args:
            merge: makes the merge that it begins with; called if training begins.
        """
        zoo, description = Zoo(self.members[0].entry.path.parent), self.describe()
        prefix = f"distill-{'+'.join(sorted(member.name for member in self.members))}"

        def train(folder: Path) -> dict[str, Any]:
            log.info("distilling %s", " and ".join(member.name for member in self.members))
            start = merge()
            members = taught(self.members, self.texts, self.method.coefficients)
            done = distil(start.merged, members, self.method, self.trainer, zoo.training_folder(description))
            done.student.save(folder)
            return {**done.record, "diagnostics": [asdict(row) for row in start.diagnostics], "notes": start.notes}

        return zoo.find_or_train(description, prefix, train)


def taught(
    members: Sequence[Source], texts: Sequence[TextStream], coefficients: Sequence[float] | None = None
) -> list[Taught]:
    """Members as teachers.

    Args:
        members: the members.
        texts: the text of each.
        coefficients: one weight a member; None: equal ones.
    """
    shares = coefficients or [1 / len(members)] * len(members)
    return [
        Taught(member.load, SafetensorsWeights(member.entry.path), text, share, member.annotated)
        for member, text, share in zip(members, texts, shares, strict=True)
    ]


@dataclass(frozen=True)
class Start:
    """The merge that distillation begins with.

    Attributes:
        merged: the merged parameters by name.
        diagnostics: of its layers.
        notes: what a user should know of it.
    """

    merged: dict[str, Tensor]
    diagnostics: list[LayerDiagnostics]
    notes: list[str]


def distilled(
    distillation: Distillation, merge: Callable[[], Start], names: Sequence[str], device: torch.device
) -> Start:
    """The merge after distillation, with the diagnostics of the one before it.

    Args:
        distillation: what is wanted.
        merge: makes the merge that it begins with; called only if that is needed.
        names: the parameters that are merged.
        device: where they are wanted.
    """
    method, merge = distillation.method, cache(merge)
    entry, now = distillation.find_or_train(merge)
    log.info("%s %s", "trained" if now else "found", entry.path)
    weights, record = SafetensorsWeights(entry.path), entry.training
    trained = {name: weights[name].to(device) for name in names}
    if method.mix:
        trained = mixed(trained, merge().merged, method.mix)
    # JSON has no infinity.
    rows = [{**row, "condition": row["condition"] or math.inf} for row in record["diagnostics"]]
    return Start(
        trained, [LayerDiagnostics(**row) for row in rows], [*record["notes"], distillation_note(method, record)]
    )


def distillation_note(method: Distill, record: Mapping[str, Any]) -> str:
    """How it went, in a line.

    Args:
        method: how.
        record: that of :class:`regmean_lab.training.distillation.Distilled`.
    """
    scores = record["scores"]
    before, after = scores["kl_of_start"], scores["kl"]
    how = f"fell from {before:.4g} to {after:.4g}" if after < before else f"did not fall below {before:.4g}"
    steps = f"in {record['steps']} steps"
    note = f"distilled from {method.start}: the divergence from the members on held-out text {how} {steps}"
    if not method.mix:
        return note
    return f"{note}; {method.mix:g} of the start was mixed in after that was measured"

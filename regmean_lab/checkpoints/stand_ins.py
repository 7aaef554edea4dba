"""What stands in place of statistics that a checkpoint comes without."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regmean_lab.checkpoints.members import Member
from regmean_lab.merging.base import MergeMethod

ESTIMATED = ("gram", "weighted_gram")
"""Kinds in whose place methods take estimates from the weights."""


@dataclass(frozen=True)
class StandIn:
    """What a method gets in place of a member's statistics of one kind.

    Attributes:
        note: what a user should know of it.
        source: gives the tensors, as a file of statistics does; None where the method finds them itself.
        files: the files that it comes from.
    """

    note: str
    source: Any = None
    files: list[Path] = field(default_factory=list)


def stand_in(member: Member, kind: str, method: MergeMethod) -> StandIn | None:
    """The best that there is in place of statistics that were not published; None where a method takes nothing else.

    Published statistics come before anything of this, and what is measured on pseudo-text from the member's published
    counts of tokens comes before what the weights tell.

    Args:
        member: the checkpoint.
        kind: the kind of statistics that it lacks.
        method: the method that needs them.
    """
    if not method.stands_in:
        return None
    if kind in ESTIMATED:
        from regmean_lab.checkpoints.pseudo_statistics import EXAMPLES, pseudo_matrices  # with transformers

        if (measured := pseudo_matrices(member, kind)) is not None:
            note = f"{member.name}: no {kind} statistics; measured on {EXAMPLES} texts drawn from its counts of tokens"
            return StandIn(note, measured, [measured.path])
        return StandIn(f"{member.name}: no {kind} statistics; estimated from what fine-tuning changed in its weights")
    return None

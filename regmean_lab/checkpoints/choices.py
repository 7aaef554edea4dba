"""What ``method=auto`` can choose among for checkpoints, and by what: that is determined before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.text_plan import whole_models
from regmean_lab.merging.auto import SIMPLE, Auto, named, work_of
from regmean_lab.merging.member_text import PSEUDO
from regmean_lab.statistics import KINDS

BY_KIND: dict[str, Any] = {
    "gram": "regmean",
    "weighted_gram": {"regmean": {"gram": "weighted"}},
    "tokens": {"regmean_sequential": {"start": "simple"}},
}
"""What is tried by default, by the kind of statistics that all checkpoints have to have for it."""


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
            published_path(member.source.statistics_from or member.source.folder, kind).is_file() for member in members
        )
    ]
    notes = []
    if auto.criterion is None and set(auto.text_statistics) - set(there) and "gram" in there:
        auto = replace(auto, criterion="quadratic")
        notes.append("chosen by Gram matrices, as not all checkpoints have counts of tokens")
    if auto.candidates is None:
        tried = {kind: entry for kind, entry in BY_KIND.items() if kind != "tokens" or _draws_text(auto)}
        if lost := [f"{_words(entry)} ({kind})" for kind, entry in tried.items() if kind not in there]:
            notes.append(f"not tried, as not all checkpoints have statistics for it: {', '.join(lost)}")
        auto = replace(auto, candidates=[entry for kind, entry in tried.items() if kind in there] or [SIMPLE])
    return auto, [*notes, work_of(auto, len(members))]


def _draws_text(auto: Auto) -> bool:
    """Whether candidates are judged on pseudo-text, so that they can be fitted to other pseudo-text."""
    return auto.by_text and auto.text == PSEUDO


def _words(entry: Any) -> str:
    ((name, settings),) = named([entry])
    return " ".join([name, *(f"{key}={value}" for key, value in (settings or {}).items())])

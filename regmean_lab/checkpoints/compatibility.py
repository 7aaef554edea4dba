"""Checks whether members can be merged, from headers and configurations alone, and how their rows are ordered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from regmean_lab.checkpoints.alignment import RowOrder, order_by_names, order_by_tokens
from regmean_lab.checkpoints.labels import repeated
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.settings import setting_notes, settings_problem
from regmean_lab.utils.names import abbreviated

HEADS = ("merge", "keep", "drop")

SHARED_TOKENS = 0.5
"""Least share of the smaller vocabulary that two members must have in common to count as models of one tokenizer."""


@dataclass
class Agreement:
    """How members go together.

    Attributes:
        lead: the member whose configuration, tokenizer and order of rows the merged model has.
        names: the parameters that are merged, in the lead's order.
        apart: the parameters that stay each member's own, or are dropped.
        orders: for each member, by parameter, the order of its rows, where it is not the lead's.
        notes: what a user should know.
    """

    lead: Member
    names: list[str]
    apart: list[str]
    orders: list[dict[str, RowOrder]]
    notes: list[str] = field(default_factory=list)


def agree(
    members: Sequence[Member],
    heads: str,
    kept: Callable[[Collection[str]], Collection[str]],
    lead: Member | None = None,
) -> tuple[Agreement | None, list[str]]:
    """Compare members with each other.

    Args:
        members: the members.
        heads: ``merge``, ``keep`` or ``drop``: what becomes of the parameters on top of the encoder.
        kept: which of the parameters the method leaves to the members.
        lead: a model, one of the members or not, whose configuration, tokenizer and order of rows the merged model has;
            None takes the first member with all tokens.

    Returns:
        How they go together (None if they do not), and everything that stands against it.
    """
    count = len(members)
    if lead is not None and all(lead is not member for member in members):
        members = [*members, lead]
    first = members[0]
    found = [problem for other in members[1:] for problem in _kinds(first, other, heads)]
    if found:  # of other architectures, every parameter would be listed
        return None, found
    _share_ties(members)
    if lead is None:
        lead, found = _lead(members)
    elif lead.tokens is None:
        found = [f"{lead.name} has no tokenizer"]
    else:
        found = _other_tokenizers(lead, [member for member in members if member.tokens is not None])
    for member in members:
        member.rename(lead.architecture)
    apart = set(kept({name for member in members for name in member.weights}))
    notes: list[str] = []
    if heads != "merge":
        apart = apart.union(*(member.head for member in members))
        some = _only_some(members, apart)
        apart |= set(some)
        if some:
            notes.append(f"not in all checkpoints, and not merged: {abbreviated(some)}")
    for member in members:
        strangers, notes_on = _strangers(member, heads)
        found, notes = found + strangers, notes + notes_on
        if member is not first and (problem := settings_problem(first, member, heads)) is not None:
            found.append(problem)
    orders: list[dict[str, RowOrder]] = []
    for member in members:
        order = _vocabulary_order(lead, member)
        orders.append(dict.fromkeys(member.vocabulary, order) if order is not None else {})
    labels = lead.architecture.label_outputs - apart
    if labels:
        wanted = lead.architecture.labels or []
        found += [
            f"config.json: id2label of {member.name}: {twice}, and rows of heads are matched by the names of labels; "
            "give each label a distinct name, or set heads=keep or heads=drop"
            for member in members
            if (twice := repeated(member.architecture.labels or [])) is not None
        ]
        different = [member for member in members if set(member.architecture.labels or []) != set(wanted)]
        found += [_other_labels(lead, member) for member in different]
        if not different:
            for member, own in zip(members, orders, strict=True):
                order = order_by_names(wanted, member.architecture.labels or [])
                if order is not None:
                    own.update(dict.fromkeys(labels, order))
    if not found:
        found = [
            problem
            for member in members
            if member is not lead
            for problem in _tensors(lead, member, orders[members.index(member)], apart)
        ]
    if found:
        return None, found
    agreement = Agreement(
        lead,
        [name for name in lead.weights if name not in apart],
        sorted(apart),
        orders[:count],
        [*notes, *(note for member in members for note in [*member.notes, *_notes(lead, member)])],
    )
    return agreement, []


def base_orders(lead: Member, base: Member) -> dict[str, RowOrder]:
    """The order of the base model's rows, where it is not the lead's."""
    order = _vocabulary_order(lead, base)
    return {} if order is None else dict.fromkeys(base.vocabulary, order)


def _kinds(first: Member, other: Member, heads: str) -> list[str]:
    one, two = first.architecture, other.architecture
    if one.model_type != two.model_type:
        return [f"{other.name} is a {two.model_type} model, {first.name} is a {one.model_type} model"]
    if one.name == two.name:
        return []
    if heads == "merge":
        return [
            f"{other.name} is a {two.name}, {first.name} a {one.name}; heads=keep keeps each model's own head, "
            "heads=drop merges the encoders alone"
        ]
    if one.base_class != two.base_class:
        return [f"{other.name} is a {two.name}, {first.name} a {one.name}: they are not built on the same encoder"]
    return []


def _share_ties(members: Sequence[Member]) -> None:
    """Keep tensors apart in all members that one of them does not tie."""
    leaders = [member.architecture.leaders for member in members]
    groups: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for name in dict.fromkeys(name for own in leaders for name in own):
        # A model that lacks one of two tensors says nothing of their tie.
        candidates = dict.fromkeys(first.get(own[name], own[name]) for own in leaders if name in own)
        shared = (
            other
            for other in candidates
            if other in groups and all(own[name] == own[other] for own in leaders if name in own and other in own)
        )
        first[name] = next(shared, name)
        groups.setdefault(first[name], []).append(name)
    for member, own in zip(members, leaders, strict=True):
        if any(first[name] != first[leader] for name, leader in own.items()):
            member.untied([tuple(group) for group in groups.values()])


def _only_some(members: Sequence[Member], apart: Collection[str]) -> list[str]:
    """Tensors of parts of the encoder, such as its pooler, that the encoders of some members do not have."""
    parts = [member.architecture.encoder_parts for member in members]
    common = frozenset.intersection(*parts)
    return sorted(
        {
            name
            for member in members
            for name in set(member.weights) - set(apart)
            if member.architecture.encoder_part(member.own_names.get(name, name)) not in common
        }
    )


def _strangers(member: Member, heads: str) -> tuple[list[str], list[str]]:
    """What is wrong, and what should be known, where a member's files have tensors that its model does not have."""
    if not member.strangers:
        return [], []
    shown, kind = abbreviated(member.strangers), member.architecture.name
    own, prefix = member.architecture.encoder_parts, f"{member.architecture.base_model_prefix}."
    on_top = any(name.removeprefix(prefix).split(".")[0] not in own for name in member.strangers)
    if member.architecture.is_bare and on_top and heads != "drop":
        return [
            f"{member.name}: its files have {shown}, which {kind} does not have: name the class with that head in "
            "architectures of config.json, or set heads=drop to merge the encoders alone"
        ], []
    return [], [f"{member.name}: its files have {shown}, which {kind} does not have: left out"]


def _notes(lead: Member, member: Member) -> list[str]:
    notes = setting_notes(lead, member)
    if member.tokens is None:
        notes.append(f"{member.name} has no tokenizer: its rows are taken to be those of {lead.name}")
    return notes


def _lead(members: Sequence[Member]) -> tuple[Member, list[str]]:
    """The first member whose vocabulary holds all tokens of all members, and what is wrong if there is none."""
    known = [member for member in members if member.tokens is not None]
    if not known or all(member.tokens == known[0].tokens for member in known):
        return (known or members)[0] if members[0].tokens is None else members[0], []
    first = known[0]
    if found := _other_tokenizers(first, known):
        return first, found
    everything = set().union(*(member.tokens or {} for member in known))
    for member in known:
        if everything <= set(member.tokens or {}):
            return member, []
    lines = []
    for member in known:
        lacking = sorted(everything - set(member.tokens or {}))
        lines.append(
            f"{member.name} lacks {len(lacking)} tokens that others have ({', '.join(map(repr, lacking[:3]))}…): no "
            "member has them all; give one a tokenizer with all tokens (tokenizer.add_tokens, "
            "model.resize_token_embeddings) and save it"
        )
    return known[0], lines


def _other_tokenizers(first: Member, known: Sequence[Member]) -> list[str]:
    """Which of some models share too few tokens with one to have its tokenizer."""
    found = []
    for other in known:
        one, two = first.tokens or {}, other.tokens or {}
        shared = len(one.keys() & two.keys())
        if shared < SHARED_TOKENS * min(len(one), len(two)):
            found.append(
                f"{other.name} and {first.name} have other tokenizers: {shared} of {len(two)} tokens are shared"
            )
    return found


def _vocabulary_order(lead: Member, member: Member) -> RowOrder | None:
    if member is lead or not lead.architecture.vocabulary or lead.tokens is None or member.tokens is None:
        return None
    return order_by_tokens(lead.tokens, lead.rows, member.tokens, member.rows)


def _other_labels(lead: Member, member: Member) -> str:
    return (
        f"{member.name} predicts {_short(member.architecture.labels)}, {lead.name} {_short(lead.architecture.labels)}: "
        "their heads cannot be merged; heads=keep keeps each model's own, heads=drop merges the encoders alone (labels "
        "that are the same but named otherwise: correct id2label in config.json)"
    )


def _tensors(lead: Member, member: Member, orders: Mapping[str, RowOrder], apart: set[str]) -> list[str]:
    """Where names or shapes of tensors differ, each kind in one line."""
    names, own = set(lead.weights) - apart, set(member.weights) - apart
    found = [
        f"in {one.name}, not in {two.name}: {abbreviated(sorted(only))}"
        for one, two, only in ((lead, member, names - own), (member, lead, own - names))
        if only
    ]
    wrong = []
    for name in sorted(names & own):
        one, two = lead.weights.shape(name), member.weights.shape(name)
        if name in orders:
            two = (len(orders[name].rows), *two[1:])
        if one != two:
            wrong.append(f"{name}: shape {one} in {lead.name}, {two} in {member.name}")
    if wrong:
        found.append(wrong[0] + (f"; and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""))
    return found


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
    return text if len(text) <= 200 else text[:197] + "..."

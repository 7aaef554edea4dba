"""Whether members can be merged, from headers and configurations alone; and in which order their rows are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from regmean_lab.checkpoints.alignment import RowOrder, order_by_names, order_by_tokens
from regmean_lab.checkpoints.members import Member

HEADS = ("merge", "keep", "drop")

SHARED_TOKENS = 0.5
"""Least share of the smaller vocabulary that two members must have in common to count as models of one tokenizer."""

_DECISIVE = re.compile(
    r"act|activation|n?_?heads?$|head_dim|eps|position|rope|rotary|norm|tie_|bias|scale|window|relative|bucket|chunk|"
    r"layer_types|embedding_size|type_vocab|residual|parallel|softcap"
)
_HARMLESS = re.compile(
    r"drop|^id2label$|^label2id$|^num_labels$|^architectures$|_token_id|^use_cache$|^vocab_size$|^dtype$|^torch_dtype$|"
    r"^transformers_version$|^_|^problem_type$|^initializer|^output_|^finetuning_task$|^task_specific|^name_or_path$|"
    r"^pruned_heads$|^gradient_checkpointing$|^return_dict$"
)


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


def agree(members: Sequence[Member], heads: str, kept: set[str]) -> tuple[Agreement | None, list[str]]:
    """Compare members with each other.

    Args:
        members: the members.
        heads: ``merge``, ``keep`` or ``drop``: what becomes of the parameters on top of the encoder.
        kept: parameters of the first member that the method leaves to the members.

    Returns:
        How they go together (None if they do not), and everything that stands against it.
    """
    first = members[0]
    found = [problem for other in members[1:] for problem in _kinds(first, other, heads)]
    if found:  # of other architectures, every parameter would be listed
        return None, found
    lead, found = _lead(members)
    apart = set(kept) if heads == "merge" else set(kept).union(*(member.architecture.head for member in members))
    for other in members:
        found += _settings(first, other) if other is not first else []
    orders: list[dict[str, RowOrder]] = []
    for member in members:
        order = _vocabulary_order(lead, member)
        orders.append(dict.fromkeys(member.architecture.vocabulary, order) if order is not None else {})
    labels = lead.architecture.label_outputs - apart
    if labels:
        wanted = lead.architecture.labels or []
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
        orders,
        [note for member in members for note in [*member.notes, *_notes(lead, member)]],
    )
    return agreement, []


def base_orders(lead: Member, base: Member) -> dict[str, RowOrder]:
    """The order of the base model's rows, where it is not the lead's."""
    order = _vocabulary_order(lead, base)
    return {} if order is None else dict.fromkeys(lead.architecture.vocabulary, order)


def _kinds(first: Member, other: Member, heads: str) -> list[str]:
    one, two = first.architecture, other.architecture
    if one.config.model_type != two.config.model_type:
        return [f"{other.name} is a {two.config.model_type} model, {first.name} is a {one.config.model_type} model"]
    if one.name == two.name:
        return []
    if heads == "merge":
        return [
            f"{other.name} is a {two.name}, {first.name} a {one.name}; heads=keep keeps each model's own head, "
            "heads=drop merges the encoders alone"
        ]
    if type(one.model.base_model) is not type(two.model.base_model):
        return [f"{other.name} is a {two.name}, {first.name} a {one.name}: they are not built on the same encoder"]
    return []


def _settings(first: Member, other: Member) -> list[str]:
    """Settings of the configuration that change what the same weights compute."""
    one, two = first.architecture.config.to_dict(), other.architecture.config.to_dict()
    return [
        f"config.json: {key} is {two.get(key)!r} in {other.name}, {one.get(key)!r} in {first.name}"
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key) and _DECISIVE.search(key) and not _HARMLESS.search(key)
    ]


def _notes(lead: Member, member: Member) -> list[str]:
    one, two = lead.architecture.config.to_dict(), member.architecture.config.to_dict()
    notes = [
        f"{member.name}: {key} is {_short(two.get(key))}; the merged model has {_short(one.get(key))} of {lead.name}"
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key) and not _DECISIVE.search(key) and not _HARMLESS.search(key)
    ]
    if member.tokens is None:
        notes.append(f"{member.name} has no tokenizer: its rows are taken to be those of {lead.name}")
    return notes


def _lead(members: Sequence[Member]) -> tuple[Member, list[str]]:
    """The first member whose vocabulary holds all tokens of all members, and what is wrong if there is none."""
    known = [member for member in members if member.tokens is not None]
    if not known or all(member.tokens == known[0].tokens for member in known):
        return (known or members)[0] if members[0].tokens is None else members[0], []
    first, found = known[0], []
    for other in known[1:]:
        one, two = first.tokens or {}, other.tokens or {}
        shared = len(one.keys() & two.keys())
        if shared < SHARED_TOKENS * min(len(one), len(two)):
            found.append(
                f"{other.name} and {first.name} have other tokenizers: {shared} of {len(two)} tokens are shared"
            )
    if found:
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
    """Where names or shapes of tensors differ."""
    names, own = set(lead.weights) - apart, set(member.weights) - apart
    found = [f"{name}: in {lead.name}, not in {member.name}" for name in sorted(names - own)]
    found += [f"{name}: in {member.name}, not in {lead.name}" for name in sorted(own - names)]
    for name in sorted(names & own):
        one, two = lead.weights.shape(name), member.weights.shape(name)
        if name in orders:
            two = (len(orders[name].rows), *two[1:])
        if one != two:
            found.append(f"{name}: shape {one} in {lead.name}, {two} in {member.name}")
    return found


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
    return text if len(text) <= 200 else text[:197] + "..."

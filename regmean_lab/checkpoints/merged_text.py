"""Text read for merges of checkpoints: by the checkpoints themselves, in the merged model's vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regmean_lab.callbacks.refine import TextReading, member_texts
from regmean_lab.checkpoints.alignment import AlignedWeights, RowOrder
from regmean_lab.checkpoints.members import Member
from regmean_lab.checkpoints.text_plan import TextPlan
from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.parameters import LayerDiagnostics, MergeMember
from regmean_lab.merging.refining import RefiningMethod, refine_
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.modules import TaskModule, module_type
from regmean_lab.suites.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

PADDING = "pad_token_id"


def refine_merged_(
    plan: TextPlan,
    method: RefiningMethod,
    members: Sequence[Member],
    orders: Sequence[Mapping[str, RowOrder]],
    lead: Member,
    merged: MutableMapping[str, Tensor],
    base: Mapping[str, Tensor] | None,
    device: torch.device,
) -> list[LayerDiagnostics]:
    """Replace the linear layers of a merge one after the other, see :func:`regmean_lab.merging.refining.refine_`.

    Args:
        plan: how text is read.
        method: how layers are replaced.
        members: the checkpoints.
        orders: of each, by parameter, the order of its rows.
        lead: the member whose vocabulary the merged model has.
        merged: all merged parameters by name, on the device; changed here.
        base: weights of the model that the members were trained from, where the method asks for them.
        device: where to compute.
    """
    views = [
        AlignedWeights(member.weights, {name: name for name in member.weights}, own, filler=lead.weights)
        for member, own in zip(members, orders, strict=True)
    ]
    readers = [
        _Reader(partial(read_module, plan, member, lead, view)) for member, view in zip(members, views, strict=True)
    ]
    reading = TextReading(tokenizer=lambda: plan.tokenizer, max_length=plan.max_length)
    texts = member_texts(readers, method, reading, device, plan.counts)
    named = [MergeMember.of(member.name, view, {}) for member, view in zip(members, views, strict=True)]
    assert isinstance(method, MergeMethod)
    diagnostics = refine_(method, named, texts, merged, lead.architecture.layout, base=base)
    log.info("replaced %d linear layers, with %s", len(diagnostics), f"at most {method.text_examples} texts a member")
    return diagnostics


def renumbered(own: Mapping[str, int] | None, wanted: Mapping[str, int] | None) -> dict[int, int] | None:
    """By a token's number in one vocabulary, its number in another one; None where they are the same, or not known.

    Args:
        own: the one vocabulary, numbers by tokens.
        wanted: the other one; what it lacks keeps its number.
    """
    if own is None or wanted is None or own == wanted:
        return None
    return {number: wanted.get(token, number) for token, number in own.items()}


def _in_numbers(value: Any, numbers: Mapping[int, int]) -> Any:
    """A setting that names a token, or several, in other numbers."""
    return [_in_numbers(one, numbers) for one in value] if isinstance(value, list) else numbers.get(value, value)


@dataclass(frozen=True)
class _Reader:
    """A member as `member_texts` takes it; it has no training examples."""

    load: partial[TaskModule]
    batches: None = None


def read_module(plan: TextPlan, member: Member, lead: Member, weights: AlignedWeights) -> TaskModule:
    """A member that reads the merged model's tokens, with its own weights in float32."""
    return module_with(
        member, weights, plan.task, lead.rows, plan.tokenizer.pad_token_id, renumbered(member.tokens, lead.tokens)
    )


def module_with(
    member: Member,
    weights: Mapping[str, Tensor],
    task: Task,
    rows: int,
    padding: int | None,
    numbers: Mapping[int, int] | None = None,
) -> TaskModule:
    """A model of a member's class in evaluation mode, in float32.

    Args:
        member: the member.
        weights: its weights by name.
        task: what it predicts.
        rows: rows of its tables of tokens.
        padding: the padding token of the text.
        numbers: by a token's number in the member's vocabulary, its number in that of the text, where they differ: what
            ends a text or starts an answer is told by number.
    """
    config = member.architecture.own_config()
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        if hasattr(part, "vocab_size"):
            part.vocab_size = rows
        for key, value in part.to_dict().items() if numbers else ():
            if key.endswith("_token_id") and key != PADDING and value is not None:
                setattr(part, key, _in_numbers(value, numbers or {}))
    # What the text is padded with; models that count positions from it were checked to have the same.
    if getattr(config, PADDING, None) is None or (padding is not None and not member.architecture.pads_positions):
        config.pad_token_id = padding
    model_class: Any = type(member.architecture.model)
    state = {name: weights[name] for name in weights}
    model: PreTrainedModel
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        # What is missing is a pooler that nothing reads: the member was checked to have everything else.
        model = model_class.from_pretrained(None, config=config, state_dict=state, dtype="float32")
    return module_type(task)(model.eval(), task)

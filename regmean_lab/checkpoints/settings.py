"""Settings of configurations that change what the same weights compute.

Configurations are compared as their class reads them: with its defaults, and old spellings of a setting as the new one.
A setting counts unless it is known not to: what a model type learns next is looked at without being known here.
"""

from __future__ import annotations

import re
from typing import Any

from regmean_lab.checkpoints.members import Member

_HARMLESS = frozenset(
    {
        # Where a file comes from, and how it is stored and run.
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "torchscript",
        "use_bfloat16",
        "use_cache",
        "gradient_checkpointing",
        "pretraining_tp",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "attn_implementation",
        "tokenizer_class",
        "unsloth_fixed",
        "unsloth_version",
        # Labels are matched by their names, tokens by their texts.
        "id2label",
        "label2id",
        "num_labels",
        "_num_labels",
        "vocab_size",
        "finetuning_task",
        "task_specific_params",
        # How training goes, and which loss it has.
        "problem_type",
        "initializer_range",
        "initializer_factor",
        "initializer_cutoff_factor",
        "init_std",
        "embed_init_std",
        "router_aux_loss_coef",
        "router_z_loss_coef",
        "router_jitter_noise",
        # How text is generated.
        "do_sample",
        "max_length",
        "max_new_tokens",
        "min_length",
        "num_beams",
        "temperature",
        "top_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "early_stopping",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "bos_token_id",
        "eos_token_id",
        "sep_token_id",
        "cls_token_id",
        "mask_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "pad_token_id",
    }
)
"""Settings that do not change what the same weights compute; numbers of tokens go with the tokenizer."""

_DROPOUT = re.compile(r"(^|_)(dropout|layerdrop|pdrop|drop)(_|$)")
_PRIVATE = re.compile(r"^_(attn|experts)_implementation")
_OF_HEADS = re.compile(r"^(classifier|summary)_")
_TOLD = ("problem_type", "bos_token_id", "eos_token_id", "pad_token_id")


def settings_problem(first: Member, other: Member, heads: str) -> str | None:
    """Settings in which two members differ and that change what the same weights compute, in one line.

    Args:
        first: a member.
        other: another one.
        heads: with ``merge``, settings of the head count as well.
    """
    one, two = first.architecture.settings, other.architecture.settings
    found = [
        f"{key} is {_short(two.get(key))} in {other.name}, {_short(one.get(key))} in {first.name}"
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
        and not _is_harmless(key, one.get(key), two.get(key))
        and (heads == "merge" or not _OF_HEADS.search(key))
    ]
    pad = "pad_token_id"
    if one.get(pad) != two.get(pad) and (first.architecture.pads_positions or other.architecture.pads_positions):
        found.append(
            f"{pad}, which positions begin after, is {two.get(pad)} in {other.name}, {one.get(pad)} in {first.name}"
        )
    if not found:
        return None
    return f"config.json: {'; '.join(found)}: such settings can change what the same weights compute"


def setting_notes(lead: Member, member: Member) -> list[str]:
    """Settings that do not change what weights compute, but that a user should know of where they differ."""
    one, two = lead.architecture.settings, member.architecture.settings
    notes = []
    for key in _TOLD:
        own, other = one.get(key), two.get(key)
        if own != other and (_text(lead, own) != _text(member, other) or key == "problem_type"):
            notes.append(f"{member.name}: {key} is {_short(other)}; the merged model has {_short(own)} of {lead.name}")
    return notes


def _is_harmless(key: str, one: Any, two: Any) -> bool:
    parts = key.split(".")
    if any(part in _HARMLESS or _PRIVATE.search(part) for part in parts):
        return True
    # A rate of dropout; a switch may change more (ESM's token_dropout scales embeddings).
    rates = all(value is None or type(value) in (int, float) for value in (one, two))
    return rates and _DROPOUT.search(parts[-1]) is not None


def _text(member: Member, number: Any) -> Any:
    """The text of the token of a number, if a tokenizer tells; otherwise the number."""
    texts = {row: token for token, row in (member.tokens or {}).items()}
    return texts.get(number, number) if isinstance(number, int) else number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."

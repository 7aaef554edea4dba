"""What is known of a model without its weights: modules, labels, and whether it writes.

It is read from ``config.json`` where the architecture is one of :mod:`regmean_lab.models.outlines`; of any other model
transformers is asked, which takes seconds to import. What transformers raises for a configuration that it cannot use
(OSError, ValueError, KeyError, AttributeError) comes through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from regmean_lab.models.outlines import Architecture, Form, Outline, Writes, architecture_of, outline
from regmean_lab.models.pretrained import Checkpoint, label_names, quiet_transformers
from regmean_lab.suites.base import Task, TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Shape: TypeAlias = "Outline | PreTrainedModel"
"""A model on the device ``meta``."""

FORMS: Mapping[TaskKind, Form] = {
    **dict.fromkeys(("multi_label", "single_label", "regression"), "sequence"),
    "token_labels": "tokens",
    **dict.fromkeys(("answers", "text"), "writing"),
    "unlabelled": "bare",
}
"""By kind of task, what is on top of its models."""

CLASSES: Mapping[Form, str] = {
    "bare": "AutoModel",
    "sequence": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
}
"""What transformers calls models by what is on top; `WRITING` has those that write."""

WRITING: Mapping[Writes, str] = {"encoder-decoder": "AutoModelForSeq2SeqLM", "decoder": "AutoModelForCausalLM"}
"""What transformers calls models that write, by how they do."""


@dataclass(frozen=True)
class Described:
    """What a model's configuration says.

    Attributes:
        model_type: its architecture.
        writes: how it writes; None where it only reads, as BERT and other masked language models do.
        starts: whether it says with which token a decoder begins.
        classes: names of the classes that it was saved from.
        labels: what the labels of its own head are called, in order.
    """

    model_type: str
    writes: Writes | None
    starts: bool
    classes: tuple[str, ...]
    labels: tuple[str, ...]


def described(checkpoint: Checkpoint) -> Described:
    """What the configuration of a pretrained model says."""
    known = _known(checkpoint)
    if known is not None:
        config, architecture = known
        return Described(
            str(config["model_type"]),
            architecture.writes,
            config.get("decoder_start_token_id") is not None,
            tuple(config.get("architectures") or ()),
            _labels(config.get("id2label"), config.get("num_labels", 2)),
        )
    made = checkpoint.config()
    return Described(
        made.model_type,
        writes_as(made),
        getattr(made, "decoder_start_token_id", None) is not None,
        tuple(getattr(made, "architectures", None) or ()),
        _labels(made.id2label, 0),
    )


def shape_of(checkpoint: Checkpoint, form: Form = "bare", task: Task | None = None) -> Shape | None:
    """The modules of a pretrained model; None where it shall write, and does not.

    Args:
        checkpoint: the model.
        form: what is on top.
        task: whose labels a head has; None for the checkpoint's own.
    """
    known = _known(checkpoint)
    if known is not None:
        labels = described(checkpoint).labels if task is None else task.labels
        return outline(known[0], form, len(labels))
    config = (
        checkpoint.config()
        if task is None or form not in ("sequence", "tokens")
        else checkpoint.config(**label_names(task))
    )
    writes = writes_as(config) if form == "writing" else None
    if form == "writing" and writes is None:
        return None
    name = CLASSES[form] if writes is None else WRITING[writes]
    with quiet_transformers() as transformers, torch.device("meta"), torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = getattr(transformers, name).from_config(config)
    return model


def bare_shape(checkpoint: Checkpoint) -> Shape:
    """The modules of a pretrained model without a head."""
    found = shape_of(checkpoint)
    assert found is not None  # nothing has to be written
    return found


def writes_as(config: PreTrainedConfig) -> Writes | None:
    """How models of a configuration write; None where they only read."""
    if config.is_encoder_decoder:
        return "encoder-decoder"
    with quiet_transformers() as transformers:
        causal, masked = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_MASKED_LM_MAPPING
    return "decoder" if type(config) in causal and type(config) not in masked else None


def _known(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], Architecture] | None:
    """What ``config.json`` says, and the architecture, where that is enough."""
    config = checkpoint.plain_config()
    architecture = None if config is None else architecture_of(config)
    return None if config is None or architecture is None else (config, architecture)


def _labels(names: Mapping[Any, str] | None, number: int) -> tuple[str, ...]:
    """Names of labels in their order, by the keys that transformers or JSON has; those of a number without any."""
    if names is None:
        return tuple(f"LABEL_{label}" for label in range(number))
    return tuple(str(names[key]) for key in sorted(names, key=int))

"""Outlines of models are compared with what transformers makes of the same configurations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from regmean_lab.merging.layout import layout_of
from regmean_lab.models.outlines import ARCHITECTURES, Form, architecture_of, outline
from regmean_lab.models.pico_models import ARCHITECTURES as PICO
from regmean_lab.models.pretrained import adapter_task, head_parameters
from regmean_lab.statistics import linear_layers
from regmean_lab.training.lora import whole_modules

LABELS = 5
CLASSES = {
    "bare": "AutoModel",
    "sequence": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
}
OTHER: dict[str, list[dict[str, Any]]] = {
    "bert": [{"vocab_size": 70, "intermediate_size": 48, "num_hidden_layers": 1, "tie_word_embeddings": False}],
    "roberta": [{"type_vocab_size": 3}],
    "distilbert": [{"n_layers": 3, "sinusoidal_pos_embds": True}],
    "deberta-v2": [
        {"position_biased_input": True, "type_vocab_size": 2, "norm_rel_ebd": "none"},
        {"position_buckets": -1, "max_relative_positions": 7},
        {"position_buckets": -1},
        {"relative_attention": False, "pos_att_type": None},
        {"pooler_hidden_size": 24},
    ],
    "gpt2": [{"n_layer": 1, "tie_word_embeddings": False}],
    "t5": [
        {"feed_forward_proj": "relu", "is_gated_act": False, "tie_word_embeddings": True},
        {"num_decoder_layers": 3, "d_kv": 5, "relative_attention_num_buckets": 9},
    ],
}
"""By architecture, settings besides those of its pico model."""
UNKNOWN: dict[str, list[dict[str, Any]]] = {
    "bert": [{"is_decoder": True}, {"num_attention_heads": 3}, {"hidden_size": "16"}, {"pruned_heads": {"0": [1]}}],
    "deberta-v2": [{"share_att_key": False}, {"conv_kernel_size": 3}],
    "gpt2": [{"n_inner": 20}, {"add_cross_attention": True}],
    "t5": [{"is_encoder_decoder": False}, {"feed_forward_proj": "gated-silu"}],
}
"""By architecture, settings with which modules are others, or none can be made."""


def pico(architecture: str, **settings: Any) -> transformers.PreTrainedConfig:
    config = PICO[architecture.replace("-", "_")].config(60)
    return type(config)(**{**config.to_dict(), **settings, "num_labels": LABELS})


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of the whole state, then of the parameters in their order, without those that repeat another one."""
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {**found, **{f"parameter {name}": tuple(value.shape) for name, value in model.named_parameters()}}


def configurations() -> list[tuple[str, dict[str, Any]]]:
    return [(name, settings) for name in ARCHITECTURES for settings in ({}, *OTHER[name])]


@pytest.mark.parametrize(("name", "settings"), configurations())
@pytest.mark.parametrize("form", ["bare", "sequence", "tokens", "writing"])
def test_modules_are_those_of_transformers(name: str, settings: dict[str, Any], form: Form) -> None:
    config = pico(name, **settings)
    own = outline({**config.to_dict(), **settings}, form, LABELS)
    if form == "writing" and ARCHITECTURES[name].writes is None:
        assert own is None
        return
    assert own is not None
    written = {"encoder-decoder": "AutoModelForSeq2SeqLM", "decoder": "AutoModelForCausalLM"}
    auto_class = written[str(ARCHITECTURES[name].writes)] if form == "writing" else CLASSES[form]
    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(config)
    assert shapes(own) == shapes(model)
    assert [n for n, _ in own.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert list(linear_layers(own)) == list(linear_layers(model))
    assert layout_of(own, LABELS) == layout_of(model, LABELS)
    assert head_parameters(own) == head_parameters(model)
    assert type(own).__name__ == type(model).__name__
    assert adapter_task(own) == adapter_task(model)
    assert whole_modules(own) == whole_modules(model)


@pytest.mark.parametrize(
    ("name", "settings"), [(name, settings) for name, found in UNKNOWN.items() for settings in found]
)
def test_what_is_not_known_has_none(name: str, settings: dict[str, Any]) -> None:
    config = pico(name).to_dict()
    assert architecture_of(config) is not None
    assert outline({**config, **settings}, "bare") is None
    assert outline({key: value for key, value in config.items() if key != "vocab_size"}, "bare") is None


def test_other_architectures_have_none() -> None:
    assert outline(transformers.LlamaConfig().to_dict(), "bare") is None
    assert outline({}, "bare") is None

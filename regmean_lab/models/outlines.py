"""Outlines of models: their modules without weights, from ``config.json`` alone and without transformers.

A plan wants to know how large a model is, what its layers are called and which head a task puts on it, and importing
transformers for that takes seconds. So the architectures of ``conf/model`` are listed here, module by module, as
transformers makes them; a test compares. Of other architectures, and of configurations with settings that are not
known here, there is no outline, and :mod:`regmean_lab.models.shapes` asks transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Form = Literal["bare", "sequence", "tokens", "writing"]
"""What is on top of a model: nothing, labels of a text, labels of its tokens, or an output layer that writes."""

Writes = Literal["encoder-decoder", "decoder"]
"""How a model writes."""

Config = Mapping[str, Any]

ORDINARY: Mapping[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),
    "pos_att_type": (None, [], ["p2c", "c2p"], "p2c|c2p"),
    "conv_kernel_size": (0,),
    "embedding_size": (),
    "attention_head_size": (),
    "n_inner": (None,),
    "feed_forward_proj": ("relu", "gelu", "gated-gelu"),
    **dict.fromkeys(("hidden_act", "activation", "activation_function"), ("gelu", "gelu_new", "relu", "silu", "tanh")),
}
"""Settings that change modules, or that some values are wrong of, with the values for which modules are known."""

_REAL = re.compile(r"(drop(out)?(_prob|_rate)?|_pdrop|_eps(ilon)?|_range|_factor)$")
"""What settings that are numbers, though no sizes, are called."""


class Outline(nn.Module):
    """The modules of a model, on the device ``meta``, with what is asked of a model of transformers without weights.

    Its class is called as that of transformers.

    Args:
        prefix: name of the module that the model without its head is.
        output: name of the module that writes, or None.
        task: PEFT's name of the kind of task that the model is for, or None.
    """

    def __init__(self, prefix: str, output: str | None, task: str | None) -> None:
        super().__init__()
        self.prefix, self.output, self.task = prefix, output, task

    @property
    def base_model(self) -> nn.Module:
        """The model without its head; the model itself where it is not divided so."""
        found: nn.Module = getattr(self, self.prefix, self)
        return found

    def get_output_embeddings(self) -> nn.Module | None:
        """What writes."""
        return None if self.output is None else self.get_submodule(self.output)


class Conv1D(nn.Module):
    """GPT-2's linear layer: a weight [in, out], and a bias."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))


@dataclass(frozen=True)
class Architecture:
    """How the modules of an architecture follow from its configuration.

    Attributes:
        called: how names of its classes begin.
        prefix: name of the module that the model without its head is.
        numbers: its settings that are sizes or numbers of modules, all of which a configuration must have.
        width: that of a token's representation, and the number of the attention's heads if it has to divide it.
        base: modules of the model without its head, by name; takes the configuration and what is on top.
        head: modules of the head, takes the configuration, what is on top and the number of labels.
        writes: how it writes, or None where it only reads.
        table: of one that writes, the module with the embeddings of its vocabulary.
    """

    called: str
    prefix: str
    numbers: tuple[str, ...]
    width: tuple[str, str] | None
    base: Callable[[Config, Form], dict[str, nn.Module]]
    head: Callable[[Config, Form, int], dict[str, nn.Module]]
    writes: Writes | None = None
    table: str = ""


def architecture_of(config: Config) -> Architecture | None:
    """The architecture of a configuration; None where it is not one of ours, or has settings that are not known."""
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None or not _is_ordinary(config, architecture):
        return None
    return architecture


def _is_ordinary(config: Config, architecture: Architecture) -> bool:
    """Whether modules follow from a configuration as they do here; of any other, transformers says what is wrong."""
    if any(name in config and config[name] not in values for name, values in ORDINARY.items()):
        return False
    reals = [value for name, value in config.items() if _REAL.search(name) and value is not None]
    if not all(isinstance(value, int | float) for value in reals):
        return False
    names = config.get("id2label")
    if names is not None and not (isinstance(names, dict) and all(str(key).isdecimal() for key in names)):
        return False
    if any(type(config.get(name)) is not int or config[name] < 0 for name in architecture.numbers):
        return False
    if config.get("pos_att_type") and not config.get("share_att_key"):
        return False  # DeBERTa then has projections of positions
    if config.get("is_encoder_decoder", architecture.writes == "encoder-decoder") != (
        architecture.writes == "encoder-decoder"
    ):
        return False
    if architecture.width is None:
        return True
    width, heads = (config[name] for name in architecture.width)
    return heads > 0 and width % heads == 0


def outline(config: Config, form: Form, labels: int = 0) -> Outline | None:
    """The modules of a model, or None where they are not known.

    Args:
        config: what ``config.json`` says.
        form: what is on top.
        labels: number of labels of a head.
    """
    architecture = architecture_of(config)
    if architecture is None or (form == "writing" and architecture.writes is None):
        return None
    task = {"sequence": "SEQ_CLS", "tokens": "TOKEN_CLS"}.get(form)
    if form == "writing":
        name = "ForConditionalGeneration" if architecture.writes == "encoder-decoder" else "LMHeadModel"
        task = "SEQ_2_SEQ_LM" if architecture.writes == "encoder-decoder" else "CAUSAL_LM"
    else:
        name = {"bare": "Model", "sequence": "ForSequenceClassification", "tokens": "ForTokenClassification"}[form]
    kind: type[Outline] = type(f"{architecture.called}{name}", (Outline,), {})
    model = kind(architecture.prefix, "lm_head" if form == "writing" else None, task)
    divided = form != "bare" and name != "ForConditionalGeneration"
    with torch.device("meta"):
        for path, module in architecture.base(config, form).items():
            _add(model, f"{architecture.prefix}.{path}" if divided else path, module)
        for path, module in architecture.head(config, form, labels).items():
            _add(model, path, module)
    # T5's output layer is tied in any case: its version 1.1 says otherwise, and means only how outputs are scaled.
    if form == "writing" and (name == "ForConditionalGeneration" or config.get("tie_word_embeddings", True)):
        table = model.base_model.get_submodule(architecture.table)
        model.get_submodule("lm_head").weight = table.weight
    return model


def _add(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module into a model, at a path whose other modules are made as they are needed."""
    *above, name = path.split(".")
    for part in above:
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = model.get_submodule(part)
    model.add_module(name, module)


def _bert(config: Config, form: Form) -> dict[str, nn.Module]:
    width, inner, is_bert = config["hidden_size"], config["intermediate_size"], config["model_type"] == "bert"
    embeddings: dict[str, nn.Module] = {
        "word_embeddings": nn.Embedding(config["vocab_size"], width),
        "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
        "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
        "LayerNorm": nn.LayerNorm(width),
    }
    # RoBERTa makes its table of positions last.
    order = embeddings if is_bert else ("word_embeddings", "token_type_embeddings", "LayerNorm", "position_embeddings")
    found = {f"embeddings.{name}": embeddings[name] for name in order}
    for number in range(config["num_hidden_layers"]):
        found |= _bert_layer(f"encoder.layer.{number}", width, inner, "")
    has_pooler = form == "bare" or (form == "sequence" and is_bert)
    return found | ({"pooler.dense": nn.Linear(width, width)} if has_pooler else {})


def _bert_layer(layer: str, width: int, inner: int, ending: str) -> dict[str, nn.Module]:
    return {
        **{f"{layer}.attention.self.{part}{ending}": nn.Linear(width, width) for part in ("query", "key", "value")},
        f"{layer}.attention.output.dense": nn.Linear(width, width),
        f"{layer}.attention.output.LayerNorm": nn.LayerNorm(width),
        f"{layer}.intermediate.dense": nn.Linear(width, inner),
        f"{layer}.output.dense": nn.Linear(inner, width),
        f"{layer}.output.LayerNorm": nn.LayerNorm(width),
    }


def _distilbert(config: Config, form: Form) -> dict[str, nn.Module]:
    width, inner = config["dim"], config["hidden_dim"]
    found: dict[str, nn.Module] = {
        "embeddings.word_embeddings": nn.Embedding(config["vocab_size"], width),
        "embeddings.position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
        "embeddings.LayerNorm": nn.LayerNorm(width),
    }
    for number in range(config["n_layers"]):
        layer = f"transformer.layer.{number}"
        found |= {f"{layer}.attention.{part}_lin": nn.Linear(width, width) for part in ("q", "k", "v", "out")}
        found[f"{layer}.sa_layer_norm"] = nn.LayerNorm(width)
        found[f"{layer}.ffn.lin1"] = nn.Linear(width, inner)
        found[f"{layer}.ffn.lin2"] = nn.Linear(inner, width)
        found[f"{layer}.output_layer_norm"] = nn.LayerNorm(width)
    return found


def _deberta(config: Config, form: Form) -> dict[str, nn.Module]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    found: dict[str, nn.Module] = {"embeddings.word_embeddings": nn.Embedding(config["vocab_size"], width)}
    if config.get("position_biased_input", True):
        found["embeddings.position_embeddings"] = nn.Embedding(config["max_position_embeddings"], width)
    if config["type_vocab_size"]:
        found["embeddings.token_type_embeddings"] = nn.Embedding(config["type_vocab_size"], width)
    found["embeddings.LayerNorm"] = nn.LayerNorm(width)
    for number in range(config["num_hidden_layers"]):
        found |= _bert_layer(f"encoder.layer.{number}", width, inner, "_proj")
    if config.get("relative_attention", False):
        furthest = max(config.get("position_buckets", -1), 0) or max(config.get("max_relative_positions", -1), 0)
        found["encoder.rel_embeddings"] = nn.Embedding(2 * (furthest or config["max_position_embeddings"]), width)
    if "layer_norm" in str(config.get("norm_rel_ebd", "none")).lower():
        found["encoder.LayerNorm"] = nn.LayerNorm(width)
    return found


def _gpt2(config: Config, form: Form) -> dict[str, nn.Module]:
    width = config["n_embd"]
    found: dict[str, nn.Module] = {
        "wte": nn.Embedding(config["vocab_size"], width),
        "wpe": nn.Embedding(config["n_positions"], width),
    }
    for number in range(config["n_layer"]):
        layer = f"h.{number}"
        found[f"{layer}.ln_1"] = nn.LayerNorm(width)
        found[f"{layer}.attn.c_attn"] = Conv1D(3 * width, width)
        found[f"{layer}.attn.c_proj"] = Conv1D(width, width)
        found[f"{layer}.ln_2"] = nn.LayerNorm(width)
        found[f"{layer}.mlp.c_fc"] = Conv1D(4 * width, width)
        found[f"{layer}.mlp.c_proj"] = Conv1D(width, 4 * width)
    return found | {"ln_f": nn.LayerNorm(width)}


def _t5(config: Config, form: Form) -> dict[str, nn.Module]:
    table = nn.Embedding(config["vocab_size"], config["d_model"])
    found: dict[str, nn.Module] = {"shared": table} | _t5_stack("encoder", config["num_layers"], config, table)
    if form == "tokens":
        return found
    number = config.get("num_decoder_layers")
    return found | _t5_stack("decoder", config["num_layers"] if number is None else number, config, table)


def _t5_stack(stack: str, blocks: int, config: Config, table: nn.Embedding) -> dict[str, nn.Module]:
    width, heads, inner = config["d_model"], config["num_heads"], config["d_ff"]
    projected = heads * config["d_kv"]
    own = nn.Embedding(config["vocab_size"], width)
    own.weight = table.weight
    found: dict[str, nn.Module] = {f"{stack}.embed_tokens": own}
    gated = config.get("is_gated_act", config.get("feed_forward_proj") == "gated-gelu")
    inputs = ("wi_0", "wi_1") if gated else ("wi",)
    for number in range(blocks):
        layers = iter(range(3))
        for attention in ("SelfAttention", "EncDecAttention") if stack == "decoder" else ("SelfAttention",):
            layer = f"{stack}.block.{number}.layer.{next(layers)}"
            for part in "qkv":
                found[f"{layer}.{attention}.{part}"] = nn.Linear(width, projected, bias=False)
            found[f"{layer}.{attention}.o"] = nn.Linear(projected, width, bias=False)
            if number == 0 and attention == "SelfAttention":
                buckets = config["relative_attention_num_buckets"]
                found[f"{layer}.{attention}.relative_attention_bias"] = nn.Embedding(buckets, heads)
            found[f"{layer}.layer_norm"] = nn.RMSNorm(width)
        layer = f"{stack}.block.{number}.layer.{next(layers)}"
        found |= {f"{layer}.DenseReluDense.{part}": nn.Linear(width, inner, bias=False) for part in inputs}
        found[f"{layer}.DenseReluDense.wo"] = nn.Linear(inner, width, bias=False)
        found[f"{layer}.layer_norm"] = nn.RMSNorm(width)
    return found | {f"{stack}.final_layer_norm": nn.RMSNorm(width)}


def _classifier(config: Config, form: Form, labels: int) -> dict[str, nn.Module]:
    return {} if form == "bare" else {"classifier": nn.Linear(config["hidden_size"], labels)}


def _roberta_head(config: Config, form: Form, labels: int) -> dict[str, nn.Module]:
    if form != "sequence":
        return _classifier(config, form, labels)
    width = config["hidden_size"]
    return {"classifier.dense": nn.Linear(width, width), "classifier.out_proj": nn.Linear(width, labels)}


def _distilbert_head(config: Config, form: Form, labels: int) -> dict[str, nn.Module]:
    width = config["dim"]
    before: dict[str, nn.Module] = {"pre_classifier": nn.Linear(width, width)} if form == "sequence" else {}
    return before | _classifier({"hidden_size": width}, form, labels)


def _deberta_head(config: Config, form: Form, labels: int) -> dict[str, nn.Module]:
    pooled = config.get("pooler_hidden_size", config["hidden_size"])
    if form != "sequence":
        return _classifier(config, form, labels)
    return {"pooler.dense": nn.Linear(pooled, pooled)} | _classifier(config, form, labels)


def _gpt2_head(config: Config, form: Form, labels: int) -> dict[str, nn.Module]:
    if form == "sequence":
        return {"score": nn.Linear(config["n_embd"], labels, bias=False)}
    if form == "writing":
        return {"lm_head": nn.Linear(config["n_embd"], config["vocab_size"], bias=False)}
    return _classifier({"hidden_size": config["n_embd"]}, form, labels)


def _t5_head(config: Config, form: Form, labels: int) -> dict[str, nn.Module]:
    width = config["d_model"]
    if form == "sequence":
        dense, out = nn.Linear(width, width), nn.Linear(width, labels)
        return {"classification_head.dense": dense, "classification_head.out_proj": out}
    if form == "writing":
        return {"lm_head": nn.Linear(width, config["vocab_size"], bias=False)}
    return _classifier({"hidden_size": width}, form, labels)


_BERT_NUMBERS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "type_vocab_size"),
)
_BERT_WIDTH = ("hidden_size", "num_attention_heads")
_DISTILBERT_NUMBERS = ("vocab_size", "dim", "hidden_dim", "n_layers", "n_heads", "max_position_embeddings")
_GPT2_NUMBERS = ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions")
_T5_NUMBERS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets")

ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture("Bert", "bert", _BERT_NUMBERS, _BERT_WIDTH, _bert, _classifier),
    "roberta": Architecture("Roberta", "roberta", _BERT_NUMBERS, _BERT_WIDTH, _bert, _roberta_head),
    "distilbert": Architecture(
        "DistilBert", "distilbert", _DISTILBERT_NUMBERS, ("dim", "n_heads"), _distilbert, _distilbert_head
    ),
    "deberta-v2": Architecture("DebertaV2", "deberta", _BERT_NUMBERS, _BERT_WIDTH, _deberta, _deberta_head),
    "gpt2": Architecture(
        "GPT2", "transformer", _GPT2_NUMBERS, ("n_embd", "n_head"), _gpt2, _gpt2_head, "decoder", "wte"
    ),
    "t5": Architecture("T5", "transformer", _T5_NUMBERS, None, _t5, _t5_head, "encoder-decoder", "shared"),
}
"""By ``model_type``, the architectures whose modules are known."""

"""Checkpoints for tests: tiny models with random weights, saved as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.merging import MergeMethod
from regmean_lab.models.pico import pico_folder

LABELS = ("anger", "fear", "joy")
OUTPUTS = 6
OLD_POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


def randomise(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Other weights of the size of real ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save_classifier(
    folder: Path,
    cache: Path,
    seed: int,
    labels: Sequence[str] = LABELS,
    tokens: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    **save: Any,
) -> BertForSequenceClassification:
    """A classifier with a tokenizer, to which tokens are added; returns the model as it was saved."""
    source = pico_folder("bert", cache)
    config = AutoConfig.from_pretrained(
        source,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if tokens:
        tokenizer.add_tokens(list(tokens))
        model.resize_token_embeddings(len(tokenizer))
    randomise(model, seed).to(dtype)
    model.save_pretrained(folder, **save)
    tokenizer.save_pretrained(folder)
    return model


def save_decoder(folder: Path, cache: Path, seed: int) -> GPT2LMHeadModel:
    """A language model whose output layer is tied to its embedding."""
    source = pico_folder("gpt2", cache)
    model = GPT2LMHeadModel(AutoConfig.from_pretrained(source))
    randomise(model, seed)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return model


def write_json(path: Path, content: Any) -> None:
    """JSON in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def sentence_folder(root: Path, cache: Path, seed: int, inner: str = "", old: bool = False) -> Path:
    """A transformer, mean pooling and a dense module with tanh."""
    source = pico_folder("bert", cache)
    model = randomise(BertModel(AutoConfig.from_pretrained(source)), seed)
    model.save_pretrained(root / inner)
    AutoTokenizer.from_pretrained(source).save_pretrained(root / inner)
    width = model.config.hidden_size
    names = ("models.Transformer", "models.Pooling", "models.Dense")
    if not old:
        names = ("base.modules.transformer.Transformer", "sentence_transformer.modules.Pooling", "base.modules.Dense")
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{name}"}
        for number, (path, name) in enumerate(zip((inner, "1_Pooling", "2_Dense"), names, strict=True))
    ]
    write_json(root / "modules.json", listed)
    new_pooling = {"embedding_dimension": width, "pooling_mode": "mean", "include_prompt": True}
    write_json(
        root / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **OLD_POOLING} if old else new_pooling
    )
    activation = "torch.nn.modules.activation.Tanh"
    dense = {"in_features": width, "out_features": OUTPUTS, "bias": True, "activation_function": activation}
    write_json(root / "2_Dense" / "config.json", dense)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "linear.weight": torch.randn(OUTPUTS, width, generator=generator),
        "linear.bias": torch.randn(OUTPUTS, generator=generator),
    }
    save_file(weights, root / "2_Dense" / "model.safetensors")
    write_json(root / inner / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    write_json(root / "config_sentence_transformers.json", {"__version__": {"x": str(seed)}, "prompts": {}})
    return root


def merge_into(output: Path, checkpoints: Sequence[Path], method: MergeMethod, **settings: Any) -> Path:
    """Merge folders into another one."""
    request = MergeRequest([str(path) for path in checkpoints], method, **settings)
    write_output(prepare_merge(request), output, {"name": method.name})
    return output


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, read by another library."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder."""
    return AutoTokenizer.from_pretrained(folder)

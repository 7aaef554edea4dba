"""Tiny decoders as mergekit and this package both read them: a base, and models near it."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from regmean_lab.checkpoints.merge import merged_tensors, prepare_merge
from regmean_lab.checkpoints.recipe.reading import read_recipe
from regmean_lab.checkpoints.recipe.request import request_of_recipe
from regmean_lab.models.pico import pico_folder

MODELS = ("base", "a", "b", "c")
CHANGE = 0.01
"""Standard deviation of the changes of a model's weights from the base's, which are 0.05: one part of the change is all
models' own, the other one is common to them."""


def save_models(folder: Path, dtype: torch.dtype, *, layers: int = 4, hidden: int = 64) -> Path:
    """Save the base and the models into folders of their names, and return the folder around them."""
    source = pico_folder("gpt2", folder / "cache")
    tokenizer = AutoTokenizer.from_pretrained(source)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=5 * hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(dtype)
    generator = torch.Generator().manual_seed(0)
    start = {
        name: 0.05 * torch.randn(value.shape, generator=generator) + (1.0 if "norm" in name else 0.0)
        for name, value in model.state_dict().items()
    }
    common = {key: value + CHANGE * torch.randn(value.shape, generator=generator) for key, value in start.items()}
    for name in MODELS:
        weights = start
        if name != "base":
            weights = {
                key: value + CHANGE * torch.randn(value.shape, generator=generator) for key, value in common.items()
            }
        model.load_state_dict({key: value.to(dtype) for key, value in weights.items()})
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, read by another library."""
    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def write(path: Path, text: str, models: Path) -> Path:
    """Write a recipe in which the models go by their names alone."""
    content = yaml.safe_load(text)

    def placed(reference: str) -> str:
        return str(models / reference) if reference in MODELS else reference

    for entry in content.get("models", []):
        entry["model"] = placed(entry["model"])
    for key in ("base_model", "tokenizer_source"):
        if key in content and content[key] != "base":
            content[key] = placed(content[key])
    if content.get("base_model") == "base":
        content["base_model"] = placed("base")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def merge(recipe: Path) -> dict[str, Tensor]:
    """What this package makes of a recipe, in the dtypes in which it would be written."""
    prepared = prepare_merge(request_of_recipe(read_recipe(recipe)))
    dtypes = {tensor.name: tensor.dtype for shard in prepared.shards for tensor in shard.tensors}
    return {name: value.to(dtypes[name]) for name, value in merged_tensors(prepared)}

"""Checkpoints for tests: tiny models with random weights, saved as transformers saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.merging import MergeMethod
from regmean_lab.models.pico import pico_folder

LABELS = ("anger", "fear", "joy")


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

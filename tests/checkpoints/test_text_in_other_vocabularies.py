"""Text in merges of checkpoints whose vocabularies have other numbers, or other tokens, than the merged model's."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import merge_into, randomise, save_classifier, tensors_of
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pico import pico_folder

NUMBERED = ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id")


def save(folder: Path, cache: Path, kind: str, seed: int, tokens: tuple[str, ...] = ()) -> PreTrainedModel:
    """A model that reads BERT's tokens: padding is 0, and 3 ends a text."""
    tokenizer = AutoTokenizer.from_pretrained(pico_folder("bert", cache))
    tokenizer.add_tokens(list(tokens))
    size = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 3}
    model: PreTrainedModel
    if kind == "t5":
        shape: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        model = T5ForConditionalGeneration(
            T5Config(**size, **shape, decoder_start_token_id=0, tie_word_embeddings=False)
        )
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    else:
        shape = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "num_labels": 3}
        model = GPT2ForSequenceClassification(GPT2Config(**size, **shape, bos_token_id=2))
    randomise(model, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def renumber(source: Path, folder: Path) -> None:
    """The same model, whose tokens have other numbers, special ones too."""
    shutil.copytree(source, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    old = list(vocabulary.values())
    new = dict(zip(old, random.Random(3).sample(old, len(old)), strict=True))
    content["model"]["vocab"] = {token: new[number] for token, number in vocabulary.items()}
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    for token in (content.get("post_processor") or {}).get("special_tokens", {}).values():
        token["ids"] = [new[number] for number in token["ids"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for path in (folder / "config.json", folder / "generation_config.json"):
        if path.is_file():
            settings = json.loads(path.read_text())
            told = {key: new[settings[key]] for key in NUMBERED if isinstance(settings.get(key), int)}
            path.write_text(json.dumps({**settings, **told}))
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if len(value) == len(old) and value.dim() == 2:
            turned = value.clone()
            turned[[new[number] for number in old]] = value[old]
            weights[name] = turned
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert AutoTokenizer.from_pretrained(folder).pad_token_id == new[0] != 0


@pytest.fixture
def texts(tmp_path: Path) -> str:
    draw = random.Random(0)
    words = ("the", "river", "people", "village", "happy", "music", "angry")
    rows = [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(rows))
    return str(tmp_path / "texts.txt")


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
@pytest.mark.parametrize("method", ["regmean_sequential", "distill"])
def test_other_numbers_of_the_same_tokens_make_no_difference(
    kind: str, method: str, texts: str, tmp_path: Path, pico_cache: Path
) -> None:
    """What pads, ends a text or starts an answer is told by number: RoBERTa, T5 and classifiers of decoders read it."""
    for seed, name in enumerate("zb"):  # the first gives the vocabulary, and is the last by name
        save(tmp_path / name, pico_cache, kind, seed)
    renumber(tmp_path / "b", tmp_path / "b2")
    chosen: MergeMethod = RegMeanSequential(text=texts, start="simple", examples=20)
    if method == "distill":
        chosen = Distill(text=texts, steps=3, evaluate_every=3, batch_size=4, held_out=8, learning_rate=1e-3)
    same, other = (
        tensors_of(merge_into(tmp_path / f"with-{name}", [tmp_path / "z", tmp_path / name], chosen))
        for name in ("b", "b2")
    )
    assert same.keys() == other.keys()
    # AdamW divides by the size of gradients, of which some are rounding.
    tolerance = 1e-5 if method == "regmean_sequential" else 1e-4
    for name, value in same.items():
        assert torch.allclose(value, other[name], rtol=1e-3, atol=tolerance), name


def test_the_row_of_a_token_that_one_member_has_stays_its_own(texts: str, tmp_path: Path, pico_cache: Path) -> None:
    own = save(tmp_path / "a", pico_cache, "t5", 0, tokens=("<x>", "<y>")).state_dict()["lm_head.weight"]
    save(tmp_path / "b", pico_cache, "t5", 1)
    folders = [tmp_path / "a", tmp_path / "b"]
    start = RegMeanSequential(text=texts, start="simple", examples=20)
    merged = tensors_of(merge_into(tmp_path / "out", folders, start))["lm_head.weight"]
    assert torch.equal(merged[-2:], own[-2:])
    assert not torch.allclose(merged[:-2], own[:-2])


@pytest.mark.parametrize("method", ["auto", "distill"])
def test_outputs_of_unlike_kinds_have_no_common_divergence(
    method: str, texts: str, tmp_path: Path, pico_cache: Path
) -> None:
    save_classifier(tmp_path / "c", pico_cache, 0)
    save_classifier(tmp_path / "r", pico_cache, 1, labels=("score",))
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    (tmp_path / "r" / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    folders = [str(tmp_path / name) for name in "cr"]
    asked = (
        Auto(text=texts, candidates=[{"simple": {"weights": [0.2, 0.8]}}]) if method == "auto" else Distill(text=texts)
    )
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest(folders, asked, heads="keep"))
    assert caught.value.problems == [
        f"method: {method} measures how far the merge is from all checkpoints in one unit, and c is of single_label "
        "and r is of regression; choose a method that does not compare outputs"
    ]
    sequential = RegMeanSequential(text=texts, start="simple", examples=5)
    assert prepare_merge(MergeRequest(folders, sequential, heads="keep")).text is not None


def test_one_file_for_all_makes_regmean_plusplus_the_mean_of_models_that_only_read(
    texts: str, tmp_path: Path, pico_cache: Path
) -> None:
    for seed, name in enumerate("ab"):
        save_classifier(tmp_path / name, pico_cache, seed)
        save(tmp_path / f"t5-{name}", pico_cache, "t5", seed)
    folders = [str(tmp_path / name) for name in "ab"]
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest(folders, RegMeanPlusPlus(text=texts)))
    (problem,) = caught.value.problems
    assert problem.startswith("method.text: with one file for all") and "expected own or pseudo" in problem
    writing = [str(tmp_path / f"t5-{name}") for name in "ab"]  # of which each writes words of its own
    assert prepare_merge(MergeRequest(writing, RegMeanPlusPlus(text=texts))).text is not None
    assert RegMeanPlusPlus(text="pseudo").reading_problems() == []
    assert RegMeanPlusPlus(text=texts, keep_top=1).reading_problems() == []
    assert RegMeanPlusPlus(text=texts, regularization="ridge", ridge_towards="base").reading_problems() == []

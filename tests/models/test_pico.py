from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pico_models import ARCHITECTURES, TEXT
from regmean_lab.models.pretrained import Checkpoint, load_tokenizer

TEXT_WRITERS = {"t5": AutoModelForSeq2SeqLM, "gpt2": AutoModelForCausalLM}


def checkpoint(architecture: str, cache: Path) -> Checkpoint:
    return find_checkpoint(ModelConfig(f"pico_{architecture}", f"pico:{architecture}"), cache)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_pico_model_reads_its_text(architecture: str, pico_cache: Path) -> None:
    """Its tokenizer knows every character, and the model has a vector for every token."""
    folder = pico_folder(architecture, pico_cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    ids = [token for line in TEXT.splitlines() for token in tokenizer(line)["input_ids"]]
    assert tokenizer.unk_token_id not in ids
    assert max(ids) < len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    assert sum(parameter.numel() for parameter in model.parameters()) < 50_000


def test_pico_models_are_the_same_in_every_process(pico_cache: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from regmean_lab.models.pico import pico_folder; "
    code += f"[pico_folder(architecture, Path(sys.argv[1])) for architecture in {list(TEXT_WRITERS)}]"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    for architecture in TEXT_WRITERS:
        one, other = pico_folder(architecture, pico_cache), pico_folder(architecture, tmp_path)
        weights = [load_file(folder / "model.safetensors") for folder in (one, other)]
        assert set(weights[0]) == set(weights[1])
        assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
        assert (one / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_t5_is_of_version_1_1(pico_cache: Path) -> None:
    """Gated feed-forward layers, and an output layer of its own, whose inputs are not scaled."""
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(pico_folder("t5", pico_cache))
    assert model.config.is_gated_act
    assert not model.config.scale_decoder_outputs
    assert model.lm_head.weight is not model.shared.weight
    assert model.encoder.embed_tokens.weight is model.shared.weight


def test_gpt2_has_one_special_token_and_a_tied_output_layer(pico_cache: Path) -> None:
    folder = pico_folder("gpt2", pico_cache)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.transformer.wte.weight
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.all_special_tokens == ["<|endoftext|>"]
    assert tokenizer.pad_token is None


@pytest.mark.parametrize(
    ("architecture", "text", "tokens"),
    [
        ("t5", "<extra_id_0> yes", ["<extra_id_0>", "▁yes", "</s>"]),
        ("t5", "<extra_id_0> no", ["<extra_id_0>", "▁no", "</s>"]),
        ("t5", "the old camera", ["▁the", "▁old", "▁camera", "</s>"]),
        ("gpt2", "The yes", ["T", "he", "Ġyes"]),
        ("gpt2", ". no", [".", "Ġno"]),
    ],
)
def test_answers_are_single_tokens(architecture: str, text: str, tokens: list[str], pico_cache: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pico_folder(architecture, pico_cache))
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == tokens


def test_a_tokenizer_without_padding_pads_with_its_end_of_sequence(pico_cache: Path, tmp_path: Path) -> None:
    """So do the model's configuration, and what is saved with a member."""
    source = checkpoint("gpt2", pico_cache)
    tokenizer = source.tokenizer()
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    model = source.load(AutoModelForCausalLM)
    assert model.config.pad_token_id == tokenizer.eos_token_id
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<|endoftext|>"
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == tokenizer.eos_token_id
    assert checkpoint("t5", pico_cache).tokenizer().pad_token == "<pad>"


@pytest.mark.parametrize(
    ("architecture", "names"), [("t5", ["dropout_rate"]), ("gpt2", ["resid_pdrop", "embd_pdrop", "attn_pdrop"])]
)
def test_dropout_of_text_writers(architecture: str, names: list[str], pico_cache: Path) -> None:
    source = checkpoint(architecture, pico_cache)
    assert {getattr(source.config(), name) for name in names} == {0.1}
    assert {getattr(replace(source, dropout=0.25).config(), name) for name in names} == {0.25}

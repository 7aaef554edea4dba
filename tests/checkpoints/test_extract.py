"""`regmean-lab extract`: against NumPy's decomposition in float64, and what PEFT makes of the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from checkpoint_folders import randomise, save_classifier, save_decoder, tensors_of
from omegaconf import DictConfig
from round_trip import compose_root
from test_checkpoint_adapters import QUERY, factors, save_adapter, weights_of
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from regmean_lab.checkpoints.extract_command import check, run
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.pico import pico_folder

RANK = 3


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    compose_job()  # registers resolvers

    def compose_extraction(*overrides: str) -> DictConfig:
        common = (f"paths.output_dir={tmp_path / 'outputs'}", "trainer=cpu")
        return compose_root("extract_adapter", *common, *overrides)

    return compose_extraction


@pytest.fixture
def models(tmp_path: Path, pico_cache: Path) -> Path:
    """`base` and `full`: two classifiers, of which nothing is alike."""
    for number, name in enumerate(("base", "full")):
        save_classifier(tmp_path / name, pico_cache, number)
    return tmp_path


def extracted(compose: Callable[..., DictConfig], root: Path, *overrides: str) -> Path:
    chosen = (f"checkpoint={root / 'full'}", f"base={root / 'base'}", f"output={root / 'out'}")
    config = compose(*chosen, *overrides)
    check(config)
    run(config, root / "job")
    return root / "out"


def best(change: Tensor, rank: int) -> tuple[Tensor, float]:
    """The best change of a rank, and which share of the squared Frobenius norm it has."""
    left, values, right = np.linalg.svd(change.double().numpy(), full_matrices=False)
    squares = values**2
    return torch.from_numpy(left[:, :rank] * values[:rank] @ right[:rank]), squares[:rank].sum() / squares.sum()


def test_each_linear_layer_has_the_best_change_of_the_rank(compose: Callable[..., DictConfig], models: Path) -> None:
    out = extracted(compose, models, f"rank={RANK}")
    base, full = tensors_of(models / "base"), tensors_of(models / "full")
    model = AutoModelForSequenceClassification.from_pretrained(models / "base")
    found = peft.PeftModel.from_pretrained(model, out).merge_and_unload().state_dict()
    layers = json.loads((out / "merge.json").read_text())["adapter"]["layers"]
    assert len(layers) == 13
    for name, value in full.items():
        expected = value.double()
        if (layer := name.removesuffix(".weight")) in layers:
            change, share = best(value - base[name], RANK)
            expected = base[name].double() + change
            assert layers[layer] == {"rank": RANK, "kept": pytest.approx(share, rel=1e-5)}
        assert torch.allclose(found[name].double(), expected, atol=1e-6), name  # all else as fine-tuned, to the bit
    ours = weights_of(out)
    assert all(torch.allclose(ours[name], found[name], atol=1e-6) for name in full)
    card = (out / "README.md").read_text()
    assert f"| `{QUERY}` | {RANK} | {100 * layers[QUERY]['kept']:.2f} |" in card
    assert f"regmean-lab extract checkpoint=full base=base rank={RANK}" in card


def test_decoders_and_dtypes(compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path) -> None:
    """Layers stored as [in, out] with a tied embedding, in bfloat16."""
    for number, name in enumerate(("base", "full")):
        save_decoder(tmp_path / name, pico_cache, number)
    out = extracted(compose, tmp_path, "rank=16", "dtype=bfloat16")
    assert {tensor.dtype for tensor in tensors_of(out).values()} == {torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    found = peft.PeftModel.from_pretrained(model, out).merge_and_unload()
    assert found.lm_head.weight is found.transformer.wte.weight
    for name, value in tensors_of(tmp_path / "full").items():
        assert torch.allclose(found.state_dict()[name], value, atol=0.02), name


@pytest.mark.parametrize(
    ("architecture", "auto_class"),
    [
        ("roberta", AutoModelForSequenceClassification),
        ("deberta_v2", AutoModelForSequenceClassification),
        ("distilbert", AutoModelForSequenceClassification),
        ("deberta_v2", AutoModelForTokenClassification),
        ("bert", AutoModelForMaskedLM),
        ("roberta", AutoModelForQuestionAnswering),
    ],
)
def test_heads_and_tables_of_other_architectures(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path, architecture: str, auto_class: Any
) -> None:
    """Heads of several layers, poolers on top, tied heads, relative positions: at full rank nothing is lost."""
    source = pico_folder(architecture, pico_cache)
    labels = {} if auto_class in (AutoModelForMaskedLM, AutoModelForQuestionAnswering) else {"num_labels": 3}
    config = AutoConfig.from_pretrained(source, **labels)
    # PEFT has no kind of task for masked language models, so that nothing tells of a head which the base does not have.
    base_class = auto_class if auto_class is AutoModelForMaskedLM else AutoModel
    base_class.from_pretrained(source).save_pretrained(tmp_path / "base")
    full = randomise(auto_class.from_config(config), 1)
    full.save_pretrained(tmp_path / "full")
    out = extracted(compose, tmp_path, f"rank={config.hidden_size}")
    base = auto_class.from_pretrained(tmp_path / "base", config=AutoConfig.from_pretrained(out))
    found = peft.PeftModel.from_pretrained(base, out).merge_and_unload().state_dict()
    ours = weights_of(out)
    for name, value in tensors_of(tmp_path / "full").items():
        assert torch.allclose(found[name], value, atol=1e-5), name
        assert torch.allclose(ours[name], value, atol=1e-5), name


def test_an_adapter_of_a_lower_rank_from_an_adapter(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    """The base is the one that it names."""
    save_classifier(tmp_path / "base", pico_cache, 0)
    tensors = factors(QUERY, 16, 16, 4)
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", tensors, r=4, lora_alpha=4)
    run(compose(f"checkpoint={adapter}", "rank=2", f"output={tmp_path / 'out'}"), tmp_path / "job")
    assert set(json.loads((tmp_path / "out" / "merge.json").read_text())["adapter"]["layers"]) == {QUERY}
    change, _ = best(tensors[f"{QUERY}.lora_B.weight"] @ tensors[f"{QUERY}.lora_A.weight"], 2)
    expected = tensors_of(tmp_path / "base")[f"{QUERY}.weight"].double() + change
    assert torch.allclose(weights_of(tmp_path / "out")[f"{QUERY}.weight"].double(), expected, atol=1e-5)


def test_a_finished_adapter_is_found_again(compose: Callable[..., DictConfig], models: Path) -> None:
    def written(*overrides: str) -> int:
        return (extracted(compose, models, *overrides) / "merge.json").stat().st_mtime_ns

    first = written("rank=2")
    assert written("rank=2") == first
    assert (second := written("rank=3")) != first
    assert written("rank=3", "force=true") != second


def test_all_that_is_wrong_is_told_at_once(compose: Callable[..., DictConfig], models: Path, pico_cache: Path) -> None:
    def problems(*overrides: str) -> str:
        with pytest.raises(ConfigurationError) as caught:
            check(compose(*overrides))
        return "\n".join(caught.value.problems)

    full, base = f"checkpoint={models / 'full'}", f"base={models / 'base'}"
    (models / "mine").mkdir()
    (models / "mine" / "notes.txt").write_text("mine")
    told = problems(full, "rank=0", "dtype=int8", f"output={models / 'mine'}")
    assert "rank: expected at least 1, got 0" in told
    assert "dtype: expected one of float32, bfloat16, float16" in told
    assert "mine is there and was not written by a merge" in told
    assert "base: the model that the checkpoint was trained from; set base=FOLDER_OR_NAME" in told
    assert "rank: expected at least 1, got -4" in problems(full, base, "rank=-4")
    assert "rank: 1000 is larger than every linear layer" in problems(full, base, "rank=1000")
    assert "neither a folder nor the name of a model on the hub" in problems(full, "base=a/b/c", "rank=2")
    save_decoder(models / "decoder", pico_cache, 0)
    assert "base: a gpt2 model" in problems(full, f"base={models / 'decoder'}", "rank=2")
    (models / "full" / "merge.json").write_text("{}")
    assert "full is the folder of" in problems(full, base, "rank=2", f"output={models / 'full'}")
    dora = save_adapter(models / "dora", models / "base", factors(QUERY, 16, 16, 2), use_dora=True)
    assert "use_dora is not understood" in problems(f"checkpoint={dora}", "rank=2")

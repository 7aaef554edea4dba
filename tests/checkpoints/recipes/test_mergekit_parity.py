"""The same recipes through mergekit and through this package; skipped where mergekit is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("mergekit")

from llama_models import save_models, tensors_of
from parity import ABC, RECIPES, compared, through_mergekit
from transformers import AutoModelForCausalLM, AutoTokenizer

from regmean_lab.checkpoints.merge import prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.checkpoints.recipe.reading import read_recipe
from regmean_lab.checkpoints.recipe.request import request_of_recipe

FLOAT32 = "dtype: float32"
ROUNDED = "dtype: float32\nout_dtype: bfloat16"
DIGITS = 5
"""Most that the two may differ by, in units of the last digit of a tensor's largest weight."""

ON_A_LINE = 1000
"""The same for SLERP: mergekit interpolates on a line where the cosine is above 0.9995, as it is of normalisations."""

ONE_MORE = {"ties", "ties, gradients and filters"}
"""Where one more element of a tensor is kept here, if density times elements is no whole number."""

ELECTED = {name for name in RECIPES if name.startswith(("ties", "dare_ties", "della, ", "breadcrumbs", "sce"))}
"""Stored in bfloat16, changes are often equal or opposite: which of equal ones is trimmed, and which sign a sum of zero
has, is not the same."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "float32": save_models(root / "float32", torch.float32, hidden=32),
        "bfloat16": save_models(root / "bfloat16", torch.bfloat16, hidden=32),
    }


@pytest.mark.parametrize("name", RECIPES)
def test_float32(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    found = compared(name, models["float32"], tmp_path, FLOAT32)
    if name in ONE_MORE:
        assert found.share < 0.002
    else:
        assert found.digits <= (ON_A_LINE if name.startswith("slerp") else DIGITS)


@pytest.mark.parametrize("name", RECIPES)
def test_bfloat16(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    found = compared(name, models["bfloat16"], tmp_path, ROUNDED)
    assert found.share < 0.02
    assert name in ELECTED or found.digits <= 1


def test_equal_weights_are_equal_bit_for_bit(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        RECIPES, "mean", "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}"
    )
    assert compared("mean", models["bfloat16"], tmp_path, "dtype: bfloat16").share == 0


def test_mergekit_reads_the_recipe_that_we_write(models: dict[str, Path], tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration

    from regmean_lab.checkpoints.recipe.record import recipe_text

    (tmp_path / "r.yml").write_text("merge_method: ties" + ABC)
    text = recipe_text(read_recipe(tmp_path / "r.yml"))
    assert MergeConfiguration.model_validate(yaml.safe_load(text)).merge_method == "ties"


def test_a_union_of_vocabularies(models: dict[str, Path], tmp_path: Path) -> None:
    """Token by token: the order of added ones is not the same."""
    for seed, (name, tokens) in enumerate((("one", ["<x>", "<both>"]), ("two", ["<both>", "<y>"]))):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(models["float32"] / "a")
        tokenizer = AutoTokenizer.from_pretrained(models["float32"] / "a")
        tokenizer.add_tokens(tokens)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    recipe = tmp_path / "r.yml"
    listed = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    content = {"merge_method": "linear", "models": listed, "tokenizer_source": "union", "dtype": "float32"}
    recipe.write_text(yaml.safe_dump(content))
    prepared = prepare_merge(request_of_recipe(read_recipe(recipe)))
    write_output(prepared, tmp_path / "ours", {"name": "simple"})
    theirs = through_mergekit(recipe, tmp_path / "theirs")
    ours = tensors_of(tmp_path / "ours")
    own, other = (AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() for name in ("ours", "theirs"))
    assert own.keys() == other.keys()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        for token, row in own.items():
            torch.testing.assert_close(ours[name][row], theirs[name][other[token]], rtol=1e-6, atol=1e-7, msg=token)

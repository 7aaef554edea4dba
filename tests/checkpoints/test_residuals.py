"""Adapters that checkpoints keep beside their merge: as PEFT loads them, against NumPy's decomposition in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from checkpoint_folders import merge_into, randomise, save_classifier, save_decoder, tensors_of
from omegaconf import DictConfig
from round_trip import compose_root
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints.heads import load_with_head
from regmean_lab.checkpoints.lora.request import AdapterRequest
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.merge_command import check, run
from regmean_lab.checkpoints.merge_plan import merge_lines, planned_files
from regmean_lab.checkpoints.merge_pushing import OF_MODELS, pushed_files
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.merging.simple import Simple
from regmean_lab.models.converted_weights import matching
from regmean_lab.models.headers import CheckpointError

IDS = torch.tensor([[5, 2, 7, 1]])


def keeping(rank: int, **settings: Any) -> Simple:
    return Simple(followed_by=[{"residual": {"rank": rank}}], **settings)


def nearest(difference: Tensor, rank: int) -> Tensor:
    """The nearest matrix of a rank, by all singular values."""
    left, values, right = np.linalg.svd(difference.double().numpy())
    return torch.from_numpy(left[:, :rank] * values[:rank] @ right[:rank]).float()


def whole(model: PreTrainedModel, adapter: Path) -> Any:
    """A merged model with an adapter, as PEFT makes one of them."""
    return peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


def check_states(
    found: Mapping[str, Tensor],
    merged: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    layers: Sequence[str],
    rank: int,
) -> None:
    """Layers are the merge and what is nearest to the rest of the member; everything else is the merge."""
    assert set(layers) <= set(merged)
    for name, value in merged.items():
        expected = value + nearest(own[name] - value, rank) if name in layers else value
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)


def encoder_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Weights of linear layers of a BERT below the head."""
    return [
        name
        for name, value in state.items()
        if value.dim() == 2 and "embeddings" not in name and not name.startswith("classifier")
    ]


def two_classifiers(tmp_path: Path, cache: Path) -> list[Path]:
    for number, name in enumerate(("one", "two")):
        save_classifier(tmp_path / name, cache, number)
    return [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_of_classifiers(tmp_path: Path, pico_cache: Path, rank: int) -> None:
    folders = two_classifiers(tmp_path, pico_cache)
    plain = tensors_of(merge_into(tmp_path / "plain", folders, Simple()))
    out = merge_into(tmp_path / "out", folders, keeping(rank))
    assert all(torch.equal(value, plain[name]) for name, value in tensors_of(out).items())
    record = json.loads((out / "merge.json").read_text())["residuals"]
    for folder in folders:
        adapter = out / "residuals" / folder.name
        model = whole(AutoModelForSequenceClassification.from_pretrained(out), adapter)
        own, layers = tensors_of(folder), encoder_layers(plain)
        check_states(model.state_dict(), plain, own, layers, rank)
        squares = [np.linalg.svd((own[name] - plain[name]).double().numpy())[1] ** 2 for name in layers]
        kept = sum(one[:rank].sum() for one in squares) / sum(one.sum() for one in squares)
        assert record[folder.name]["kept"] == pytest.approx(kept, rel=1e-4)
        card = (out / "README.md").read_text()
        assert f"| `residuals/{folder.name}` | {100 * record[folder.name]['kept']:.2f} |" in card
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "out"


def test_the_lines_of_the_card_load_it(tmp_path: Path, pico_cache: Path) -> None:
    for heads in ("merge", "keep", "drop"):
        out = merge_into(tmp_path / heads, two_classifiers(tmp_path, pico_cache), keeping(2), heads=heads)
        section = (out / "README.md").read_text().partition("## Residuals")[2]
        lines = section.partition("```python\n")[2].partition("```")[0].replace("THIS_FOLDER", str(out))
        there: dict[str, Any] = {}
        exec(lines, there)
        assert isinstance(there["model"], peft.PeftModel)


@pytest.mark.parametrize("labels", [("x", "y", "z"), ("yes", "no")])
def test_with_heads_of_their_own(tmp_path: Path, pico_cache: Path, labels: Sequence[str]) -> None:
    folders = two_classifiers(tmp_path, pico_cache)
    save_classifier(folders[1], pico_cache, 1, labels=labels)
    out = merge_into(tmp_path / "out", folders, keeping(3), heads="keep")
    merged = tensors_of(out)
    for folder in folders:
        own = tensors_of(folder)
        found = whole(load_with_head(out, folder.name), out / "residuals" / folder.name).state_dict()
        kept = {name: value for name, value in own.items() if name not in merged}
        assert kept and all(torch.equal(found[name], value) for name, value in kept.items())
        check_states(found, merged, own, encoder_layers(merged), 3)


def test_of_encoders_alone(tmp_path: Path, pico_cache: Path) -> None:
    folders = two_classifiers(tmp_path, pico_cache)
    out = merge_into(tmp_path / "out", folders, keeping(3), heads="drop")
    merged, own = tensors_of(out), tensors_of(folders[1])
    found = whole(AutoModel.from_pretrained(out), out / "residuals" / "two").state_dict()
    prefixed = {name if name in merged else f"bert.{name}": value for name, value in found.items()}
    check_states(prefixed, merged, own, encoder_layers(merged), 3)


def test_of_decoders_whose_layers_are_stored_transposed(tmp_path: Path, pico_cache: Path) -> None:
    for number, name in enumerate(("one", "two")):
        save_decoder(tmp_path / name, pico_cache, number)
    out = merge_into(tmp_path / "out", [tmp_path / "one", tmp_path / "two"], keeping(2))
    merged, own = AutoModelForCausalLM.from_pretrained(out), AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    before = {name: value.clone() for name, value in merged.state_dict().items()}
    layers = [name for name, value in before.items() if ".h." in name and value.dim() == 2]
    model = whole(merged, out / "residuals" / "two")
    assert model.lm_head.weight is model.transformer.wte.weight
    check_states(model.state_dict(), before, own.state_dict(), layers, 2)


def test_of_encoder_decoders_of_full_rank_the_layers_are_their_own(tmp_path: Path) -> None:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=12, decoder_start_token_id=0, **sizes)
    for number, name in enumerate(("one", "two")):
        randomise(T5ForConditionalGeneration(config), number).save_pretrained(tmp_path / name)
    out = merge_into(tmp_path / "out", [tmp_path / "one", tmp_path / "two"], keeping(8))
    found = whole(AutoModelForSeq2SeqLM.from_pretrained(out), out / "residuals" / "one").state_dict()
    own, merged = tensors_of(tmp_path / "one"), tensors_of(out)
    layers = [name for name in merged if name.endswith(("q.weight", "wi.weight", "wo.weight"))]
    assert layers
    for name, value in merged.items():
        expected = own[name] if name in layers else value
        if name in layers or "layer_norm" in name:
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)


def test_factors_are_of_the_dtype_that_was_asked_for(tmp_path: Path, pico_cache: Path) -> None:
    out = merge_into(tmp_path / "out", two_classifiers(tmp_path, pico_cache), keeping(2), dtype=torch.bfloat16)
    stored = load_file(out / "residuals" / "one" / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}


def test_a_checkpoint_that_is_the_merge_keeps_nothing(tmp_path: Path, pico_cache: Path) -> None:
    folders = two_classifiers(tmp_path, pico_cache)
    out = merge_into(tmp_path / "out", folders, keeping(2, coefficients=[1.0, 0.0]))
    assert [path.name for path in (out / "residuals").iterdir()] == ["two"]
    assert list(json.loads((out / "merge.json").read_text())["residuals"]) == ["two"]


def test_what_would_be_written_and_pushed(tmp_path: Path, pico_cache: Path) -> None:
    request = MergeRequest([str(path) for path in two_classifiers(tmp_path, pico_cache)], keeping(2))
    prepared = prepare_merge(request)
    out = merge_into(tmp_path / "out", [Path(name) for name in request.checkpoints], keeping(2))
    files = pushed_files(out)
    assert set(planned_files(prepared)) == set(files)
    assert {path for path in files if path.startswith("residuals/")} == {
        f"residuals/{name}/adapter_{file}" for name in ("one", "two") for file in ("config.json", "model.safetensors")
    }
    old = dict.fromkeys(["residuals/three/adapter_config.json", "residuals/three/adapter_model.safetensors"], "")
    assert set(matching(old, OF_MODELS)) == set(old)
    told = "\n".join(merge_lines(prepared, out))
    assert "3 files of weights" in told
    shapes = [tensors_of(out)[name].shape for name in encoder_layers(tensors_of(out))]
    numbers = sum(2 * sum(shape) for shape in shapes)
    assert f"keeps a residual of rank 2 of {len(shapes)} linear layers, at most {numbers} numbers" in told


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"method": keeping(17)}, "method.followed_by.residual.rank: 17 is larger than every linear layer"),
        (
            {"method": keeping(2), "adapter": AdapterRequest(2)},
            "method.followed_by.residual: adapters to a whole model, and adapter.rank writes none",
        ),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, pico_cache: Path, settings: dict[str, Any], problem: str) -> None:
    folders = two_classifiers(tmp_path, pico_cache)
    save_classifier(tmp_path / "base", pico_cache, 3)
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest([str(path) for path in folders], base=str(tmp_path / "base"), **settings))
    assert [found for found in caught.value.problems if found.startswith(problem)]


def test_the_command_writes_and_finds_it(
    tmp_path: Path, pico_cache: Path, compose_job: Callable[..., DictConfig]
) -> None:
    compose_job()  # registers resolvers
    folders = two_classifiers(tmp_path, pico_cache)
    chosen = [
        f"checkpoints=[{','.join(map(str, folders))}]",
        "method=simple",
        f"output={tmp_path / 'out'}",
        f"paths.output_dir={tmp_path / 'outputs'}",
    ]

    def merge(rank: int) -> int:
        config = compose_root("merge_checkpoints", *chosen, f"method.followed_by=[{{residual:{{rank:{rank}}}}}]")
        check(config)
        run(config, tmp_path / "merge")
        factors = load_file(tmp_path / "out" / "residuals" / "one" / "adapter_model.safetensors")
        assert {value.shape[0] for name, value in factors.items() if "lora_A" in name} == {rank}
        return (tmp_path / "out" / "merge.json").stat().st_mtime_ns

    first = merge(2)
    assert merge(2) == first != merge(3)
    with pytest.raises(ConfigurationError, match=r"followed_by\.residual\.rank: expected at least 1, got 0"):
        check(compose_root("merge_checkpoints", *chosen, "method.followed_by=[{residual:{rank:0}}]"))

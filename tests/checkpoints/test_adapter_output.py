"""Merges written as LoRA adapters: against the whole merge, PEFT, and NumPy's decomposition in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from checkpoint_folders import merge_into, randomise, save_classifier, save_decoder, tensors_of
from omegaconf import DictConfig
from round_trip import compose_root
from test_checkpoint_adapters import QUERY, VALUE, factors, save_adapter, weights_of
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints.lora.request import AdapterRequest, core_problems
from regmean_lab.checkpoints.members import read_member
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.merge_command import check, run
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.merging import MergeMethod, method_types
from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.slerp import Slerp
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties
from regmean_lab.models.headers import CheckpointError

LABELS = {0: "anger", 1: "fear", 2: "joy"}


def loaded(adapter: Path, base: Path, auto_class: Any = AutoModelForSequenceClassification, **config: Any) -> Any:
    """The base with the adapter, as PEFT makes one model of them."""
    model = peft.PeftModel.from_pretrained(auto_class.from_pretrained(base, **config), adapter)
    return model.merge_and_unload().eval()


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    for name, value in expected.items():
        assert torch.allclose(found[name].float(), value.float(), rtol=tolerance, atol=tolerance), name


def adapters(tmp_path: Path, cache: Path, ranks: Sequence[int] = (2, 3), head: bool = True) -> list[Path]:
    """A base in `base`, and adapters of two layers, of which the second has one alone."""
    save_classifier(tmp_path / "base", cache, 0)
    made = []
    for number, rank in enumerate(ranks):
        tensors = factors(QUERY, 16, 16, rank, seed=number)
        if number:
            tensors |= factors(VALUE, 16, 16, rank, seed=10 + number)
        if head:
            tensors |= {"classifier.weight": torch.full((3, 16), float(number)), "classifier.bias": torch.ones(3)}
        folder = tmp_path / f"adapter{number}"
        made.append(save_adapter(folder, tmp_path / "base", tensors, r=rank, lora_alpha=1, task_type="SEQ_CLS"))
    return made


@pytest.mark.parametrize("space", ["full", "core"])
@pytest.mark.parametrize(
    "method",
    [Simple(), Simple(coefficients=[0.3, 0.7]), TaskArithmetic(scaling=0.7), TaskArithmetic(weights=[2.0, -1.0])],
)
def test_with_the_sum_of_ranks_it_is_the_whole_merge(
    tmp_path: Path, pico_cache: Path, method: MergeMethod, space: str
) -> None:
    folders = adapters(tmp_path, pico_cache)
    whole = tensors_of(merge_into(tmp_path / "whole", folders, method))
    out = merge_into(tmp_path / "out", folders, method, adapter=AdapterRequest(5, space))
    check_equal(loaded(out, tmp_path / "base").state_dict(), whole)
    check_equal(weights_of(out), whole)
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == ["classifier"]
    assert set(settings["target_modules"]) == {QUERY, VALUE}
    assert settings["base_model_name_or_path"] == str(tmp_path / "base")
    stored = {name.removeprefix("base_model.model.") for name in tensors_of(out)}
    assert stored == {f"{name}.lora_{kind}.weight" for name in (QUERY, VALUE) for kind in "AB"} | {
        "classifier.weight",
        "classifier.bias",
    }
    record = json.loads((out / "merge.json").read_text())["adapter"]
    assert record["kept"] == pytest.approx(1) and record["space"] == space


@pytest.mark.parametrize("space", ["full", "core"])
def test_a_lower_rank_is_the_best_one(tmp_path: Path, pico_cache: Path, space: str) -> None:
    """Of the whole merge's change by NumPy in float64, with the share that is kept."""
    folders = adapters(tmp_path, pico_cache)
    whole = tensors_of(merge_into(tmp_path / "whole", folders, TaskArithmetic(scaling=1.0)))
    base = tensors_of(tmp_path / "base")
    out = merge_into(tmp_path / "out", folders, TaskArithmetic(scaling=1.0), adapter=AdapterRequest(2, space))
    merged = loaded(out, tmp_path / "base").state_dict()
    record = json.loads((out / "merge.json").read_text())["adapter"]
    total = kept = 0.0
    for layer in (QUERY, VALUE):
        change = (whole[f"{layer}.weight"] - base[f"{layer}.weight"]).double().numpy()
        left, values, right = np.linalg.svd(change)
        best = torch.from_numpy(left[:, :2] * values[:2] @ right[:2]).float()
        assert torch.allclose(merged[f"{layer}.weight"] - base[f"{layer}.weight"], best, atol=1e-4)
        squares = values**2
        assert record["layers"][layer]["rank"] == 2
        assert record["layers"][layer]["kept"] == pytest.approx(squares[:2].sum() / squares.sum(), rel=1e-4)
        total, kept = total + squares.sum(), kept + squares[:2].sum()
    assert record["kept"] == pytest.approx(kept / total, rel=1e-4)
    assert f"{100 * record['kept']:.2f} %" in (out / "README.md").read_text()


def test_in_core_space_no_weights_of_layers_are_read(
    tmp_path: Path, pico_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Factors are, and what an adapter holds whole: in the full space also the weights of every layer."""
    folders = adapters(tmp_path, pico_cache)
    read: set[str] = set()
    whole, rows = FileWeights.__getitem__, FileWeights.rows
    monkeypatch.setattr(FileWeights, "__getitem__", lambda self, name: (read.add(name), whole(self, name))[1])
    monkeypatch.setattr(FileWeights, "rows", lambda self, name, *ends: (read.add(name), rows(self, name, *ends))[1])
    merge_into(tmp_path / "core", folders, Ties(), adapter=AdapterRequest(2, "core"))
    assert {name for name in read if "lora" not in name} == {
        f"{prefix}classifier.{last}" for prefix in ("", "base_model.model.") for last in ("weight", "bias")
    }
    merge_into(tmp_path / "full", folders, Ties(), adapter=AdapterRequest(2))
    assert {f"{QUERY}.weight", f"{VALUE}.weight"} <= read


@pytest.mark.parametrize("name", ["ties", "tsv", "dare", "breadcrumbs", "sce", "iso_c", "wudi"])
def test_methods_of_task_vectors_merge_cores(tmp_path: Path, pico_cache: Path, name: str) -> None:
    """Two adapters with one B: whatever a method makes of their cores lies in what it spans."""
    base = save_classifier(tmp_path / "base", pico_cache, 0).state_dict()
    tensors = factors(QUERY, 16, 16, 2)
    other = {**factors(QUERY, 16, 16, 2, seed=1), f"{QUERY}.lora_B.weight": tensors[f"{QUERY}.lora_B.weight"]}
    two = [save_adapter(tmp_path / f"adapter{n}", tmp_path / "base", part) for n, part in enumerate((tensors, other))]
    method = method_types()[name](**({"density": 1.0} if name == "sce" else {}))
    out = merge_into(tmp_path / "out", two, method, adapter=AdapterRequest(4, "core"))
    change = loaded(out, tmp_path / "base").state_dict()[f"{QUERY}.weight"] - base[f"{QUERY}.weight"]
    assert 0 < int(torch.linalg.matrix_rank(change, rtol=1e-4)) <= 2
    span = torch.linalg.qr(tensors[f"{QUERY}.lora_B.weight"])[0]
    assert torch.allclose(span @ span.T @ change, change, atol=1e-5)


def test_ties_of_cores_is_ties_of_the_cores(tmp_path: Path, pico_cache: Path) -> None:
    """Against TIES written out in NumPy, on cores in bases by NumPy: signs of singular vectors do not matter."""
    folders = adapters(tmp_path, pico_cache, head=False)
    base = tensors_of(tmp_path / "base")[f"{QUERY}.weight"]
    out = merge_into(tmp_path / "out", folders, Ties(density=1.0, scaling=1.0), adapter=AdapterRequest(5, "core"))
    parts = [factors(QUERY, 16, 16, rank, seed=seed) for seed, rank in ((0, 2), (1, 3))]
    pairs = [
        (part[f"{QUERY}.lora_B.weight"].double().numpy() / rank, part[f"{QUERY}.lora_A.weight"].double().numpy())
        for part, rank in zip(parts, (2, 3), strict=True)
    ]
    left = np.linalg.svd(np.concatenate([b for b, _ in pairs], 1), full_matrices=False)[0]
    right = np.linalg.svd(np.concatenate([a for _, a in pairs], 0), full_matrices=False)[2]
    cores = np.stack([left.T @ b @ a @ right.T for b, a in pairs])
    agrees = np.sign(cores) == np.sign(cores.sum(0))
    merged = (cores * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    expected = torch.from_numpy(left @ merged @ right).float()
    found = loaded(out, tmp_path / "base").state_dict()[f"{QUERY}.weight"] - base
    assert torch.allclose(found, expected, atol=1e-4)


def test_whole_models_are_held_with_all_that_has_changed(tmp_path: Path, pico_cache: Path) -> None:
    """Embeddings, layer norms, biases and heads; of full rank nothing is lost, in PEFT and here."""
    for number, name in enumerate(("base", "one", "two")):
        save_classifier(tmp_path / name, pico_cache, number)
    two = [tmp_path / "one", tmp_path / "two"]
    whole = tensors_of(merge_into(tmp_path / "whole", two, Simple()))
    out = merge_into(tmp_path / "out", two, Simple(), base=str(tmp_path / "base"), adapter=AdapterRequest(16))
    check_equal(loaded(out, tmp_path / "base").state_dict(), whole, 1e-4)
    check_equal(weights_of(out), whole, 1e-4)
    record = json.loads((out / "merge.json").read_text())
    assert {"classifier", "bert.embeddings.word_embeddings"} <= set(record["adapter"]["modules_to_save"])
    assert QUERY in record["adapter"]["biases"]
    assert record["base"]["reference"] == "base"
    assert "adapter.rank=16" in record["command"]


def test_the_labels_come_with_the_adapter(tmp_path: Path, pico_cache: Path) -> None:
    """A head that the base does not have, with names that PEFT's files do not hold."""
    save_classifier(tmp_path / "whole", pico_cache, 0)
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "base")
    for number in (1, 2):
        save_classifier(tmp_path / f"{number}", pico_cache, number)
    two = [tmp_path / "1", tmp_path / "2"]
    whole = tensors_of(merge_into(tmp_path / "merged", two, Simple()))
    out = merge_into(tmp_path / "out", two, Simple(), base=str(tmp_path / "base"), adapter=AdapterRequest(16))
    config = AutoConfig.from_pretrained(out)
    assert config.id2label == LABELS
    check_equal(loaded(out, tmp_path / "base", config=config).state_dict(), whole, 1e-4)
    member = read_member(find_sources([str(out)])[0], find_sources([str(tmp_path / "base")])[0])
    assert member.architecture.labels == list(LABELS.values())
    again = merge_into(tmp_path / "again", [out, tmp_path / "1"], Simple())  # matched by name, not by number
    assert AutoConfig.from_pretrained(again).id2label == LABELS


def test_encoders_alone(tmp_path: Path, pico_cache: Path) -> None:
    for number, name in enumerate(("base", "one", "two")):
        save_classifier(tmp_path / name, pico_cache, number)
    two, base = [tmp_path / "one", tmp_path / "two"], tmp_path / "base"
    whole = AutoModel.from_pretrained(merge_into(tmp_path / "whole", two, Simple(), heads="drop"))
    out = merge_into(tmp_path / "out", two, Simple(), heads="drop", base=str(base), adapter=AdapterRequest(16))
    assert not any("classifier" in name for name in tensors_of(out))
    check_equal(loaded(out, base, AutoModel).state_dict(), whole.state_dict(), 1e-4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_decoders_with_tied_weights(tmp_path: Path, pico_cache: Path, dtype: torch.dtype | None) -> None:
    """Layers stored as [in, out], and an embedding that is the output layer too, which stays so."""
    for number, name in enumerate(("base", "one", "two")):
        save_decoder(tmp_path / name, pico_cache, number)
    two, base = [tmp_path / "one", tmp_path / "two"], tmp_path / "base"
    whole = AutoModelForCausalLM.from_pretrained(merge_into(tmp_path / "whole", two, Simple())).eval()
    out = merge_into(tmp_path / "out", two, Simple(), base=str(base), dtype=dtype, adapter=AdapterRequest(16))
    ids = torch.tensor([[5, 2, 7, 1]])
    tolerance = 1e-4 if dtype is None else 0.05
    model = loaded(out, base, AutoModelForCausalLM)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert torch.allclose(model(ids).logits, whole(ids).logits, atol=tolerance, rtol=tolerance)
    check_equal(dict(whole.state_dict()), weights_of(out), tolerance)
    assert {tensor.dtype for tensor in tensors_of(out).values()} == {dtype or torch.float32}


@pytest.mark.parametrize("tied", [True, False])
def test_encoder_decoders(tmp_path: Path, tied: bool) -> None:
    config = T5Config(
        vocab_size=12,
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )
    for number, name in enumerate(("base", "one", "two")):
        randomise(T5ForConditionalGeneration(config), number).save_pretrained(tmp_path / name)
    two, base = [tmp_path / "one", tmp_path / "two"], tmp_path / "base"
    whole = AutoModelForSeq2SeqLM.from_pretrained(merge_into(tmp_path / "whole", two, Simple())).eval()
    out = merge_into(tmp_path / "out", two, Simple(), base=str(base), adapter=AdapterRequest(8))
    ids = torch.tensor([[5, 2, 7, 1]])
    found = loaded(out, base, AutoModelForSeq2SeqLM)(input_ids=ids, decoder_input_ids=ids).logits
    assert torch.allclose(found, whole(input_ids=ids, decoder_input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    assert json.loads((out / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"


def refused(
    checkpoints: Sequence[Path], adapter: AdapterRequest, method: MergeMethod | None = None, **more: Any
) -> str:
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest([str(path) for path in checkpoints], method or Simple(), adapter=adapter, **more))
    return "\n".join(caught.value.problems)


def test_what_cannot_be_an_adapter_is_told(tmp_path: Path, pico_cache: Path) -> None:
    folders = adapters(tmp_path, pico_cache)
    model = save_classifier(tmp_path / "other", pico_cache, 1)
    save_classifier(tmp_path / "more", pico_cache, 2, tokens=["unheard"])
    whole, base = [tmp_path / "other"], str(tmp_path / "base")
    assert "17 is larger than every linear layer" not in refused(whole, AdapterRequest(17)), "the base is told first"
    assert "adapter.rank needs the model that the checkpoints were trained from" in refused(whole, AdapterRequest(2))
    assert "heads: an adapter has no place" in refused(whole, AdapterRequest(2), heads="keep", base=base)
    told = refused(whole, AdapterRequest(1000), base=base)
    assert "1000 is larger than every linear layer (the smaller side of the largest, bert." in told and "is 16)" in told
    vocabulary = refused([tmp_path / "more"], AdapterRequest(2), base=base)
    assert "its vocabulary is not that of more" in vocabulary
    model.config.hidden_act = "relu"
    model.config.save_pretrained(tmp_path / "other")
    assert "hidden_act is 'gelu' in base" in refused(whole, AdapterRequest(2), base=base)
    content = json.loads((folders[1] / "adapter_config.json").read_text())
    content["base_model_name_or_path"] = str(tmp_path / "more")
    (folders[1] / "adapter_config.json").write_text(json.dumps(content))
    assert "the adapters have different ones; set base=" in refused(folders, AdapterRequest(2))


def test_what_has_no_core_space_is_told(tmp_path: Path, pico_cache: Path) -> None:
    folders, core = adapters(tmp_path, pico_cache), AdapterRequest(2, "core")
    base = str(tmp_path / "base")
    assert "base is a whole model; expected full" in refused([folders[0], tmp_path / "base"], core)
    assert "method slerp merges no task vectors" in refused(folders, core, Slerp())
    assert "method regmean needs gram of the layers" in refused(folders, core, method_types()["regmean"]())
    assert "weights add up to 1" in refused(folders, core, Simple(weights=[1.0, 1.0], normalize=False))
    save_classifier(tmp_path / "second", pico_cache, 3)
    bases = [base, str(tmp_path / "second")]
    assert "adapter1 is not made for" in refused(folders, core, base=base, adapter_bases=bases)


def test_adapters_that_change_nothing(tmp_path: Path, pico_cache: Path) -> None:
    save_classifier(tmp_path / "base", pico_cache, 0)
    tensors = factors(QUERY, 16, 16, 2)
    tensors[f"{QUERY}.lora_B.weight"].zero_()
    alike = [save_adapter(tmp_path / name, tmp_path / "base", tensors) for name in ("adapter", "alike")]
    for space in ("full", "core"):
        given = MergeRequest([str(path) for path in alike], Simple(), adapter=AdapterRequest(2, space))
        assert "adapter and alike have equal weights" in prepare_merge(given).warnings[0]
        with pytest.raises(MergeError, match="no linear layer has changed"):
            merge_into(tmp_path / "out", alike, Simple(), adapter=AdapterRequest(2, space))
        assert not (tmp_path / "out").exists()


def test_layers_of_one_rank_less_are_told_by_pattern(tmp_path: Path, pico_cache: Path) -> None:
    """Factors have no more columns than the change has directions; PEFT reads ranks and scales by layer."""
    folders = adapters(tmp_path, pico_cache, head=False)
    out = merge_into(tmp_path / "out", folders, Simple(), adapter=AdapterRequest(16, "core"))
    settings = json.loads((out / "adapter_config.json").read_text())
    ranks = {**dict.fromkeys((QUERY, VALUE), settings["r"]), **settings["rank_pattern"]}
    assert ranks == {QUERY: 5, VALUE: 3}
    assert settings["alpha_pattern"] == settings["rank_pattern"]
    whole = tensors_of(merge_into(tmp_path / "whole", folders, Simple()))
    check_equal(loaded(out, tmp_path / "base").state_dict(), whole)


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    compose_job()  # registers resolvers

    def compose_merge(*overrides: str) -> DictConfig:
        return compose_root("merge_checkpoints", *overrides, f"paths.output_dir={tmp_path / 'outputs'}")

    return compose_merge


def test_the_command_writes_finds_and_scores_an_adapter(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders, out = adapters(tmp_path, pico_cache), tmp_path / "out"
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps({"text": "the river", "label": label}) + "\n" for label in LABELS.values())
    )
    chosen = (f"checkpoints=[{','.join(map(str, folders))}]", "method=simple", f"output={out}")

    def written(*overrides: str) -> int:
        config = compose(*chosen, *overrides)
        check(config)
        run(config, tmp_path / "job")
        return (out / "merge.json").stat().st_mtime_ns

    with caplog.at_level("INFO"):
        first = written("adapter.rank=4")
    assert "kept of the squared Frobenius norm of the changes of 2 linear layers: 9" in caplog.text
    assert written("adapter.rank=4") == first
    second = written("adapter.rank=4", "adapter.space=core")
    assert second != first
    third = written("adapter.rank=5", f"evaluate={tmp_path / 'test.jsonl'}")
    assert third != second
    assert (tmp_path / "out-evaluation" / "out" / "result.json").is_file()
    assert written() != third and (out / "model.safetensors").is_file()


def test_a_recipe_can_be_written_as_an_adapter(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    """Of a method that needs no base, the adapter's is given beside the recipe."""
    for number, name in enumerate(("base", "one", "two")):
        save_classifier(tmp_path / name, pico_cache, number)
    recipe = tmp_path / "recipe.yml"
    models = "".join(f"  - model: {tmp_path / name}\n    parameters: {{weight: 0.5}}\n" for name in ("one", "two"))
    recipe.write_text(f"merge_method: linear\nmodels:\n{models}")
    asked = (f"recipe={recipe}", f"output={tmp_path / 'out'}", "adapter.rank=16")
    with pytest.raises(ConfigurationError, match=r"base: adapter\.rank needs the model"):
        check(compose(*asked))
    run(compose(*asked, f"base={tmp_path / 'base'}"), tmp_path / "job")
    whole = tensors_of(merge_into(tmp_path / "whole", [tmp_path / "one", tmp_path / "two"], Simple()))
    check_equal(weights_of(tmp_path / "out"), whole, 1e-4)
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["command"].endswith("adapter.rank=16")


def test_values_that_make_no_sense(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    def problems(*overrides: str) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            check(compose(f"checkpoints=[{tmp_path},{tmp_path}]", "method=simple", *overrides))
        return caught.value.problems

    for rank in (0, -3):
        assert f"adapter.rank: expected at least 1, got {rank}" in problems(f"adapter.rank={rank}")
    assert "adapter.space: expected one of full, core, got 'inner'" in problems("adapter.rank=2", "adapter.space=inner")
    assert "adapter.space: core writes an adapter; give its rank with adapter.rank=NUMBER" in problems(
        "adapter.space=core"
    )


def test_steps_after_a_merge_are_not_for_cores() -> None:
    assert core_problems(Simple(), [], {}, None) == []
    (problem,) = core_problems(Simple(followed_by=["svc"]), [], {}, None)
    assert problem.startswith("adapter.space: steps after a merge (method.followed_by) are for whole weights")

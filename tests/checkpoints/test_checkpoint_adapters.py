"""Adapters: against W + s B A in float64, and against PEFT where it is installed."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import merge_into, randomise, save_classifier, save_decoder, tensors_of
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints.adapters import adapter_base
from regmean_lab.checkpoints.members import read_member
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.merging.parameters import MergeError
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.models.headers import CheckpointError

QUERY = "bert.encoder.layer.0.attention.self.query"
VALUE = "bert.encoder.layer.1.attention.self.value"


def save_adapter(folder: Path, base: Path | str, tensors: dict[str, Tensor], **settings: Any) -> Path:
    """An adapter's folder as PEFT lays it out."""
    folder.mkdir(parents=True)
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "base_model_name_or_path": str(base), **settings}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def factors(module: str, outputs: int, inputs: int, rank: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, inputs, generator=generator),
        f"{module}.lora_B.weight": torch.randn(outputs, rank, generator=generator),
    }


def product(tensors: dict[str, Tensor], module: str) -> Tensor:
    return tensors[f"{module}.lora_B.weight"].double() @ tensors[f"{module}.lora_A.weight"].double()


def weights_of(adapter: Path) -> dict[str, Tensor]:
    """The adapted model's weights as a merge reads them, and by rows."""
    content = json.loads((adapter / "adapter_config.json").read_text())
    (base,) = find_sources([content["base_model_name_or_path"]])
    member = read_member(find_sources([str(adapter)])[0], base)
    whole = {name: member.weights[name] for name in member.weights}
    for name, value in whole.items():
        if value.dim():
            # Not every BLAS gives the same bits for some rows of a product as for all of them.
            torch.testing.assert_close(member.weights.rows(name, 1, len(value)), value[1:], msg=name)
    return whole


def refused(adapter: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest([str(adapter)], Simple()))
    return sorted(set(caught.value.problems))


@pytest.mark.parametrize("stabilised", [False, True])
def test_adds_the_scaled_product_and_takes_what_was_saved_whole(
    tmp_path: Path, pico_cache: Path, stabilised: bool
) -> None:
    base = save_classifier(tmp_path / "base", pico_cache, 0).state_dict()
    tensors = {**factors(QUERY, 16, 16, 2), **factors(VALUE, 16, 16, 4, seed=1)}
    tensors["classifier.weight"] = torch.ones(3, 16)
    tensors["classifier.modules_to_save.default.bias"] = torch.full((3,), 2.0)
    adapter = save_adapter(
        tmp_path / "adapter",
        tmp_path / "base",
        tensors,
        use_rslora=stabilised,
        rank_pattern={"layer.1.attention.self.value": 4},
        alpha_pattern={"value": 3},
    )
    adapted = weights_of(adapter)
    assert set(adapted) == set(base) - {"bert.embeddings.position_ids"}
    root = math.sqrt if stabilised else float
    expected = {name: value.double() for name, value in base.items()}
    expected[f"{QUERY}.weight"] += 6 / root(2) * product(tensors, QUERY)
    expected[f"{VALUE}.weight"] += 3 / root(4) * product(tensors, VALUE)
    expected["classifier.weight"] = torch.ones(3, 16).double()
    expected["classifier.bias"] = torch.full((3,), 2.0).double()
    for name, value in adapted.items():
        assert torch.allclose(value.double(), expected[name], rtol=1e-5, atol=1e-5), name


def test_layers_that_are_stored_the_other_way_round(tmp_path: Path, pico_cache: Path) -> None:
    base = save_decoder(tmp_path / "base", pico_cache, 0).state_dict()
    module = "transformer.h.0.attn.c_attn"
    tensors = {**factors(module, 48, 16, 2)}
    table = {
        "transformer.wte.lora_embedding_A": torch.randn(2, len(base["transformer.wte.weight"])),
        "transformer.wte.lora_embedding_B": torch.randn(16, 2),
    }
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", {**tensors, **table}, fan_in_fan_out=True)
    adapted = weights_of(adapter)
    expected = base[f"{module}.weight"].double() + 3 * product(tensors, module).T
    assert torch.allclose(adapted[f"{module}.weight"].double(), expected, atol=1e-5)
    a, b = table.values()
    expected = base["transformer.wte.weight"].double() + 3 * (b.double() @ a.double()).T
    assert torch.allclose(adapted["transformer.wte.weight"].double(), expected, atol=1e-5)


def test_task_vectors_of_adapters_take_their_base(tmp_path: Path, pico_cache: Path) -> None:
    base = save_classifier(tmp_path / "base", pico_cache, 0).state_dict()
    two = [factors(QUERY, 16, 16, 2, seed) for seed in (0, 1)]
    adapters = [save_adapter(tmp_path / f"adapter{n}", tmp_path / "base", part) for n, part in enumerate(two)]
    merged = tensors_of(merge_into(tmp_path / "out", adapters, TaskArithmetic(scaling=0.5)))
    expected = base[f"{QUERY}.weight"].double() + 0.5 * 3 * sum(product(part, QUERY) for part in two)
    assert torch.allclose(merged[f"{QUERY}.weight"].double(), expected, atol=1e-5)
    assert torch.equal(merged[f"{VALUE}.weight"], base[f"{VALUE}.weight"])


def test_adapter_of_an_encoder_brings_its_own_head(tmp_path: Path, pico_cache: Path) -> None:
    save_classifier(tmp_path / "whole", pico_cache, 0)
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "base")
    tensors = {
        **factors(QUERY, 16, 16, 2),
        "classifier.weight": torch.ones(5, 16),
        "classifier.bias": torch.zeros(5),
    }
    adapters = [
        save_adapter(tmp_path / name, tmp_path / "base", tensors, task_type="SEQ_CLS") for name in ("one", "two")
    ]
    merged = AutoModelForSequenceClassification.from_pretrained(merge_into(tmp_path / "out", adapters, Simple()))
    assert merged.num_labels == 5
    assert torch.equal(merged.classifier.weight, torch.ones(5, 16))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' is not understood"),
        ({"use_dora": True}, "use_dora is not understood"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config is not understood"),
        ({"made_up": 1, "lora_bias": True}, "lora_bias, made_up are not understood"),
        ({"trainable_token_indices": [1, 1]}, "trainable_token_indices: expected numbers of tokens"),
        ({"init_lora_weights": "pissa"}, "changes the base before training"),
        ({"r": 0}, "r: expected a positive number"),
        ({"r": 3}, "are not those of rank 3"),
        ({"lora_alpha": "big"}, "lora_alpha: expected a positive number"),
        ({"rank_pattern": {"a": -1}}, "rank_pattern: expected positive numbers"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "alpha_pattern: pattern"),
        ({"alpha_pattern": {"(a": 1}}, "alpha_pattern: pattern"),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, pico_cache: Path, settings: dict[str, Any], expected: str
) -> None:
    save_classifier(tmp_path / "base", pico_cache, 0)
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", factors(QUERY, 16, 16, 2), **settings)
    (problem,) = refused(adapter)
    assert expected in problem


def test_all_tensors_that_do_not_belong_are_told(tmp_path: Path, pico_cache: Path) -> None:
    save_classifier(tmp_path / "base", pico_cache, 0)
    tensors = {
        **factors(QUERY, 16, 8, 2),
        **factors("bert.encoder.layer.7.attention.self.query", 16, 16, 2),
        f"{VALUE}.lora_A.weight": torch.zeros(2, 16),
        f"{VALUE}.lora_magnitude_vector": torch.zeros(16),
        "something.else": torch.zeros(1),
    }
    found = refused(save_adapter(tmp_path / "adapter", tmp_path / "base", tensors))
    assert len(found) == 4
    assert any("one of A and B is missing" in problem for problem in found)
    assert any("lora_magnitude_vector" in problem and "something.else" in problem for problem in found)


def test_a_folder_with_model_and_adapter_is_read_as_it_is_told(tmp_path: Path, pico_cache: Path) -> None:
    """Refused as it is; `config.json` means the whole model, `adapter_config.json` the adapter on the base it names."""
    base = save_classifier(tmp_path / "base", pico_cache, 0).state_dict()
    tensors = factors(QUERY, 16, 16, 2)
    mixed = save_adapter(tmp_path / "mixed", tmp_path / "base", tensors)
    whole = save_classifier(mixed, pico_cache, 1).state_dict()
    (problem,) = refused(mixed)
    assert f"{mixed} holds a whole model (model.safetensors) and an adapter (adapter_config.json)" in problem
    assert f"Say which is meant: {mixed}/config.json or {mixed}/adapter_config.json" in problem
    model, adapter = mixed / "config.json", mixed / "adapter_config.json"
    other = save_classifier(tmp_path / "other", pico_cache, 2).state_dict()
    merged = tensors_of(merge_into(tmp_path / "whole", [model, tmp_path / "other"], Simple()))
    mean = (whole[f"{QUERY}.weight"] + other[f"{QUERY}.weight"]) / 2
    assert torch.allclose(merged[f"{QUERY}.weight"], mean)
    out = merge_into(tmp_path / "both", [model, adapter], Simple())
    expected = (base[f"{QUERY}.weight"].double() + 3 * product(tensors, QUERY) + whole[f"{QUERY}.weight"].double()) / 2
    assert torch.allclose(tensors_of(out)[f"{QUERY}.weight"].double(), expected, atol=1e-5)
    record = json.loads((out / "merge.json").read_text())
    assert [part["name"] for part in record["checkpoints"]] == ["mixed-1", "mixed-2"]
    assert [part["adapter"] for part in record["checkpoints"]] == [False, True]
    assert "checkpoints=[mixed/config.json,mixed/adapter_config.json]" in record["command"]


def test_bases_that_are_missing_and_pickled_adapters(tmp_path: Path, pico_cache: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "nowhere", factors(QUERY, 16, 16, 2))
    assert "set base=FOLDER_OR_NAME" in refused(adapter)[0]
    nameless = save_adapter(tmp_path / "nameless", "", factors(QUERY, 16, 16, 2))
    assert "names no base" in refused(nameless)[0]
    save_classifier(tmp_path / "base", pico_cache, 0)
    pickled = save_adapter(tmp_path / "pickled", tmp_path / "base", {})
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    (problem,) = refused(pickled)
    assert "adapter_model.bin, which is not read" in problem
    assert "regmean_lab.prepare model=" in problem


def head_factors(base: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """An adapter of a tied output layer, as PEFT saves it: with the layer itself."""
    rows, width = base["transformer.wte.weight"].shape
    table = base["transformer.wte.weight"].clone()
    return {**factors("lm_head", rows, width, 2, seed), "lm_head.base_layer.weight": table}


def test_members_with_and_without_ties_are_merged_with_their_base(tmp_path: Path, pico_cache: Path) -> None:
    """An adapter of the output layer, a whole model and a base that tie it: task vectors in float64."""
    base = save_decoder(tmp_path / "base", pico_cache, 0).state_dict()
    whole = save_decoder(tmp_path / "whole", pico_cache, 1).state_dict()
    tensors = head_factors(base)
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", tensors)
    folders = [adapter, tmp_path / "whole"]
    out = merge_into(tmp_path / "out", folders, TaskArithmetic(scaling=0.5), base=str(tmp_path / "base"))
    merged = tensors_of(out)
    table, other = (state["transformer.wte.weight"].double() for state in (base, whole))
    embedding = table + 0.5 * (other - table)
    assert torch.allclose(merged["transformer.wte.weight"].double(), embedding, atol=1e-5)
    expected = embedding + 0.5 * 3 * product(tensors, "lm_head")
    assert torch.allclose(merged["lm_head.weight"].double(), expected, atol=1e-5)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_one_weight_with_two_values_in_a_file_is_refused(tmp_path: Path, pico_cache: Path) -> None:
    base = save_decoder(tmp_path / "base", pico_cache, 0).state_dict()
    tensors = {**head_factors(base), "transformer.wte.base_layer.weight": base["transformer.wte.weight"] + 1}
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", tensors)
    with pytest.raises(MergeError, match="for one weight, with different values"):
        merge_into(tmp_path / "out", [adapter, tmp_path / "base"], Simple())
    assert not (tmp_path / "out").exists()
    replaced = save_adapter(tmp_path / "replaced", tmp_path / "base", {"lm_head.original_module.weight": torch.ones(1)})
    assert "but not what replaces it" in refused(replaced)[0]


def test_ties_that_a_model_cannot_be_without_are_told(tmp_path: Path) -> None:
    T5ForConditionalGeneration(
        T5Config(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", factors("lm_head", 8, 4, 2))
    (problem,) = refused(adapter)
    assert "lm_head.weight and shared.weight are one weight" in problem
    assert "a t5 model cannot hold them apart" in problem


def test_the_base_has_the_revision_that_the_adapter_names(tmp_path: Path) -> None:
    def named(name: str, **settings: Any) -> str | None:
        return adapter_base(save_adapter(tmp_path / name, "owner/model", {}, **settings))

    assert named("none") == "owner/model"
    assert named("main", revision="main") == "owner/model"
    assert named("some", revision="v1") == "owner/model@v1"


class TestAgainstPeft:
    """The same merge by PEFT itself."""

    def check(self, tmp_path: Path, model: Any, settings: dict[str, Any], auto_class: Any) -> None:
        peft = pytest.importorskip("peft")
        model.save_pretrained(tmp_path / "base")
        torch.manual_seed(0)
        adapted = peft.get_peft_model(
            auto_class.from_pretrained(tmp_path / "base"), peft.LoraConfig(r=4, lora_alpha=6, **settings)
        )
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    assert "lora" in name or "modules_to_save" in name
                    parameter.copy_(torch.randn_like(parameter))
        adapted.save_pretrained(tmp_path / "adapter")
        expected = adapted.merge_and_unload().state_dict()
        ours = weights_of(tmp_path / "adapter")
        for name, value in ours.items():
            assert torch.allclose(value, expected[name], rtol=1e-5, atol=1e-5), name
        assert any(not torch.equal(value, model.state_dict()[name]) for name, value in ours.items())

    @pytest.mark.parametrize(
        "settings",
        [
            {"target_modules": ["query", "value"], "modules_to_save": ["classifier"]},
            {"target_modules": "all-linear", "use_rslora": True},
            {
                "target_modules": ["query", "key"],
                "rank_pattern": {"layer.1.attention.self.key": 2},
                "alpha_pattern": {"query": 3},
            },
            {"target_modules": ["word_embeddings", "dense"], "init_lora_weights": "gaussian"},
        ],
    )
    def test_classifier(self, tmp_path: Path, pico_cache: Path, settings: dict[str, Any]) -> None:
        model = save_classifier(tmp_path / "model", pico_cache, 0)
        self.check(tmp_path, model, {"task_type": "SEQ_CLS", **settings}, AutoModelForSequenceClassification)

    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize(
        ("settings", "new_tokens"),
        [
            ({"target_modules": ["lm_head"]}, 0),
            ({"target_modules": ["wte"]}, 0),
            ({"target_modules": ["wte"]}, 3),
            ({"target_modules": ["lm_head", "wte"], "alpha_pattern": {"wte": 3}}, 0),
            ({"target_modules": ["lm_head", "c_attn"], "modules_to_save": ["wte"]}, 0),
            ({"target_modules": ["c_attn"], "modules_to_save": ["lm_head", "wte"]}, 0),
            ({"target_modules": ["c_attn"], "modules_to_save": ["lm_head", "wte"]}, 3),
            ({"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}, 0),
            ({"target_modules": ["c_attn"], "modules_to_save": ["wte"], "ensure_weight_tying": True}, 0),
            ({"target_modules": ["wte", "lm_head"], "ensure_weight_tying": True}, 0),
            ({"target_modules": ["c_attn"]}, 3),
            ({"target_modules": ["c_attn"], "trainable_token_indices": [5, 2]}, 0),
            ({"target_modules": ["c_attn"], "trainable_token_indices": [5, 2]}, 3),
            ({"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [5], "lm_head": [5]}}, 0),
            ({"target_modules": ["c_attn", "c_proj"], "bias": "all"}, 0),
        ],
    )
    def test_output_layer_and_embedding(
        self, tmp_path: Path, pico_cache: Path, settings: dict[str, Any], new_tokens: int, tied: bool
    ) -> None:
        """The merged folder computes what PEFT computes with the adapter, of two alike, on a tied base or another."""
        peft = pytest.importorskip("peft")
        config = save_decoder(tmp_path / "base", pico_cache, 0).config
        config.tie_word_embeddings = tied
        model = randomise(GPT2LMHeadModel(config), 1)
        model.save_pretrained(tmp_path / "base")
        torch.manual_seed(0)
        if new_tokens:
            model.resize_token_embeddings(config.vocab_size + new_tokens)
        settings = {"task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "fan_in_fan_out": True, **settings}
        adapted = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        adapted.save_pretrained(tmp_path / "adapter")
        ids = torch.tensor([[5, 2, 7, 1]])
        expected = adapted(ids).logits
        shutil.copytree(tmp_path / "adapter", tmp_path / "alike")
        out = merge_into(tmp_path / "out", [tmp_path / "adapter", tmp_path / "alike"], Simple())
        assert torch.allclose(AutoModelForCausalLM.from_pretrained(out)(ids).logits, expected, rtol=1e-5, atol=1e-5)

    def test_decoder(self, tmp_path: Path, pico_cache: Path) -> None:
        model = randomise(GPT2LMHeadModel(save_decoder(tmp_path / "model", pico_cache, 0).config), 1)
        settings = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
        self.check(tmp_path, model, settings, AutoModelForCausalLM)

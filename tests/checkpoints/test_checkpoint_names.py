"""Names that other versions and tools give to tensors: what is merged against what transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoint_folders import merge_into, randomise, save_classifier, tensors_of
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from regmean_lab.checkpoints.architecture_reading import read_architecture
from regmean_lab.checkpoints.members import read_stored
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.merging import MergeError
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.headers import CheckpointError

SIZES = {
    "vocab_size": 24,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}


def save(folder: Path, kind: str, seed: int, **settings: Any) -> PreTrainedModel:
    """A model of a class of transformers with random weights, saved; returns it."""
    cls = getattr(transformers, kind)
    model = randomise(cls(cls.config_class(**{**SIZES, **settings})), seed)
    model.save_pretrained(folder)
    return model


def rename(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    state = {name: value.clone().contiguous() for name, value in change(tensors_of(folder)).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def loaded(folder: Path) -> dict[str, Tensor]:
    """What transformers loads from a folder, by the names of its class, in float64."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder, dtype="float32")
    return {name: value.double() for name, value in model.state_dict().items()}


def is_mean(merged: Path, *states: Mapping[str, Tensor]) -> None:
    """The merged folder, as transformers loads it, holds the mean of states, all of them."""
    found = loaded(merged)
    assert set(found) == set(states[0])
    for name, value in found.items():
        expected = sum(state[name].double() for state in states) / len(states)
        assert torch.allclose(value, expected, rtol=1e-6, atol=1e-6), name


def refused(*folders: Path, **settings: Any) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest([str(folder) for folder in folders], Simple(), **settings))
    return caught.value.problems


def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
    }


class TestNamesOfOthers:
    def test_old_layer_norms_of_a_member_and_of_the_base(self, tmp_path: Path, pico_cache: Path) -> None:
        states = [save_classifier(tmp_path / name, pico_cache, seed).state_dict() for seed, name in enumerate("ab0")]
        for name in "b0":
            rename(tmp_path / name, old)
        is_mean(merge_into(tmp_path / "mean", [tmp_path / "a", tmp_path / "b"], Simple()), *states[:2])
        base, method = str(tmp_path / "0"), TaskArithmetic(scaling=0.5)
        merged = merge_into(tmp_path / "sum", [tmp_path / "a", tmp_path / "b"], method, base=base)
        for name, value in loaded(merged).items():
            one, two, start = (state[name].double() for state in states)
            assert torch.allclose(value, start + 0.5 * (one + two - 2 * start), rtol=1e-5, atol=1e-6), name

    @pytest.mark.parametrize(
        "change",
        [
            lambda name: f"_orig_mod.{name}",
            lambda name: f"module.{name}",
            lambda name: f"module._orig_mod.{name}",
            lambda name: name.replace("bert.encoder.", "bert.encoder._orig_mod."),
            lambda name: f"model.{name}",
            lambda name: f"model._orig_mod.{name}",
            lambda name: f"lightning.network.{name}",
        ],
    )
    def test_what_wrappers_put_into_names(self, tmp_path: Path, pico_cache: Path, change: Callable[[str], str]) -> None:
        states = [save_classifier(tmp_path / name, pico_cache, seed).state_dict() for seed, name in enumerate("ab")]
        rename(tmp_path / "b", lambda state: {change(name): value for name, value in state.items()})
        is_mean(merge_into(tmp_path / "out", [tmp_path / "b", tmp_path / "a"], Simple()), *states)

    def test_buffers_of_old_versions(self, tmp_path: Path, pico_cache: Path) -> None:
        states = [save(tmp_path / name, "GPT2LMHeadModel", seed).state_dict() for seed, name in enumerate("ab")]
        buffers = {
            "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16),
            "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        }
        rename(tmp_path / "b", lambda state: {**state, **buffers})
        merged = merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple())
        is_mean(merged, *states)
        assert not set(buffers) & set(tensors_of(merged))

    def test_names_that_match_nothing_are_told_in_one_line(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            save_classifier(tmp_path / name, pico_cache, seed)
        rename(tmp_path / "b", lambda state: {f"x{number}.{name}": state[name] for number, name in enumerate(state)})
        (problem,) = refused(tmp_path / "a", tmp_path / "b")
        assert "its files lack bert.embeddings.word_embeddings.weight" in problem
        assert f"and {len(tensors_of(tmp_path / 'a')) - 3} more of BertForSequenceClassification" in problem
        assert "they have x0." in problem

    def test_a_parameter_stored_under_two_names(self, tmp_path: Path, pico_cache: Path) -> None:
        states = [save_classifier(tmp_path / name, pico_cache, seed).state_dict() for seed, name in enumerate("ab")]
        rename(tmp_path / "b", lambda state: {**state, **old(state)})
        is_mean(merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple()), *states)
        rename(tmp_path / "b", lambda state: {**state, "bert.embeddings.LayerNorm.gamma": torch.zeros(16)})
        with pytest.raises(MergeError, match=r"LayerNorm\.gamma and .*LayerNorm\.weight for one weight"):
            merge_into(tmp_path / "no", [tmp_path / "a", tmp_path / "b"], Simple())
        assert not (tmp_path / "no").exists()

    def test_a_base_lacks_only_what_was_new(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab0"):
            save_classifier(tmp_path / name, pico_cache, seed)
        rename(tmp_path / "0", lambda state: {name: state[name] for name in state if "layer.1." not in name})
        request = MergeRequest([str(tmp_path / "a"), str(tmp_path / "b")], TaskArithmetic(), base=str(tmp_path / "0"))
        with pytest.raises(CheckpointError, match=r"base: its files lack bert\.encoder\.layer\.1\.") as caught:
            prepare_merge(request)
        assert len(caught.value.problems) == 1


MIXTURES = [
    ("MixtralForCausalLM", {"num_local_experts": 4, "num_key_value_heads": 1}),
    ("Qwen2MoeForCausalLM", {"num_experts": 4, "moe_intermediate_size": 6, "shared_expert_intermediate_size": 6}),
]


class TestMixtures:
    @pytest.mark.parametrize(("kind", "settings"), MIXTURES)
    def test_experts_stored_one_by_one(self, tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
        states = [save(tmp_path / name, kind, seed, **settings).state_dict() for seed, name in enumerate("ab")]
        assert any("experts.3." in name for name in tensors_of(tmp_path / "a"))  # stored as on the hub
        is_mean(merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple()), *states)

    @pytest.mark.parametrize(("kind", "settings"), MIXTURES)
    def test_rows_are_read_without_the_others(
        self, tmp_path: Path, kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = save(tmp_path / "a", kind, 0, **settings).state_dict()
        stored = read_stored(stored_tensors(tmp_path / "a"), read_architecture(tmp_path / "a", 10**6))
        weights = stored.weights
        fused = list(weights.names.converted)
        assert len(fused) == 4  # two layers, both with two of them
        read: list[str] = []
        original = type(weights.files).__getitem__
        monkeypatch.setattr(
            type(weights.files), "__getitem__", lambda self, name: (read.append(name), original(self, name))[1]
        )
        for name in fused:
            read.clear()
            assert torch.equal(weights.rows(name, 1, 3), state[name][1:3])
            assert {part.split(".experts.")[1][0] for part in read} == {"1", "2"}
            assert torch.equal(weights[name], state[name])
            assert weights.shape(name) == state[name].shape
            assert weights.dtype(name) == torch.float32

    def test_a_missing_expert(self, tmp_path: Path) -> None:
        kind, settings = MIXTURES[0]
        for seed, name in enumerate("ab"):
            save(tmp_path / name, kind, seed, **settings)
        rename(
            tmp_path / "b",
            lambda state: {name: state[name] for name in state if "0.block_sparse_moe.experts.2" not in name},
        )
        problems = refused(tmp_path / "a", tmp_path / "b")
        assert len(problems) == 1
        assert "experts" in problems[0]
        assert "(3, 24, 8), but its configuration says (4, 24, 8)" in problems[0]

    def test_a_merged_mixture_can_be_merged_again(self, tmp_path: Path) -> None:
        kind, settings = MIXTURES[0]
        states = [save(tmp_path / name, kind, seed, **settings).state_dict() for seed, name in enumerate("ab")]
        first = merge_into(tmp_path / "first", [tmp_path / "a", tmp_path / "b"], Simple())
        is_mean(merge_into(tmp_path / "again", [first, tmp_path / "b"], Simple()), loaded(first), states[1])


class TestTies:
    def test_a_stored_output_layer_beside_a_tied_one(self, tmp_path: Path) -> None:
        settings = {"tie_word_embeddings": True, "num_key_value_heads": 1}
        for seed, name in enumerate("ab"):
            save(tmp_path / name, "LlamaForCausalLM", seed, **settings)
        own = torch.randn(24, 8)
        rename(tmp_path / "b", lambda state: {**state, "lm_head.weight": own})
        states = [loaded(tmp_path / name) for name in "ab"]
        assert torch.equal(states[1]["lm_head.weight"], own.double())
        for order in ([0, 1], [1, 0]):
            folders = [tmp_path / "ab"[number] for number in order]
            merged = merge_into(tmp_path / f"out{order[0]}", folders, Simple())
            is_mean(merged, *states)
            assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False

    @pytest.mark.parametrize(
        "change",
        [
            lambda state: state,
            lambda state: {name.replace("shared", "decoder.embed_tokens"): value for name, value in state.items()},
            lambda state: {**state, "encoder.embed_tokens.weight": state["shared.weight"]},
        ],
    )
    @pytest.mark.parametrize("head", [True, False])
    def test_t5_with_and_without_an_output_layer_of_its_own(
        self, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], head: bool
    ) -> None:
        for seed, name in enumerate("ab"):
            sizes = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "vocab_size": 24}
            model = randomise(transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)), seed)
            model.save_pretrained(tmp_path / name)
            own = {"lm_head.weight": torch.randn(24, 8)} if head else {}
            rename(tmp_path / name, lambda state, own=own: {**change(state), **own})  # type: ignore[misc]
            edit(tmp_path / name, tie_word_embeddings=not head, scale_decoder_outputs="absent")
        states = [loaded(tmp_path / name) for name in "ab"]
        merged = merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple())
        is_mean(merged, *states)
        assert ("lm_head.weight" in tensors_of(merged)) == head
        config = transformers.AutoConfig.from_pretrained(merged)
        assert config.scale_decoder_outputs is not head


class TestClasses:
    def test_the_class_is_found_from_the_tensors(self, tmp_path: Path, pico_cache: Path) -> None:
        one = save_classifier(tmp_path / "a", pico_cache, 0, labels=["x", "y"]).state_dict()
        two = dict(save_classifier(tmp_path / "b", pico_cache, 1, labels=["y", "x"]).state_dict())
        edit(tmp_path / "a", architectures="absent")
        edit(tmp_path / "b", architectures=None)
        for name in ("classifier.weight", "classifier.bias"):
            two[name] = two[name].flip(0)  # in the order of the first
        is_mean(merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple()), one, two)

    def test_several_classes_fit(self, tmp_path: Path) -> None:
        for seed, name in enumerate("ab"):
            save(tmp_path / name, "BertForMaskedLM", seed)
            edit(tmp_path / name, architectures="absent")
        problems = refused(tmp_path / "a", tmp_path / "b")
        assert len(problems) == 2
        assert "BertForMaskedLM" in problems[0]
        assert '"architectures": [' in problems[0]

    def test_a_head_that_the_class_does_not_have_is_not_merged_unseen(self, tmp_path: Path, pico_cache: Path) -> None:
        states = [save_classifier(tmp_path / name, pico_cache, seed).state_dict() for seed, name in enumerate("ab")]
        for name in "ab":
            edit(tmp_path / name, architectures=["BertModel"])
        problems = refused(tmp_path / "a", tmp_path / "b")
        assert all("its files have classifier.bias, classifier.weight, which BertModel" in text for text in problems)
        merged = merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple(), heads="drop")
        is_mean(merged, *({n.removeprefix("bert."): v for n, v in s.items() if "classifier" not in n} for s in states))


class TestEncodersWithAndWithoutPooler:
    KINDS = ("BertForSequenceClassification", "BertForTokenClassification", "BertForMaskedLM", "BertModel")

    @pytest.mark.parametrize("one", KINDS)
    @pytest.mark.parametrize("two", ["BertForTokenClassification", "BertModel", "BertForQuestionAnswering"])
    @pytest.mark.parametrize("heads", ["keep", "drop"])
    def test_shared_encoders_are_merged(self, tmp_path: Path, one: str, two: str, heads: str) -> None:
        from regmean_lab.checkpoints.heads import load_with_head

        models = [save(tmp_path / name, kind, seed) for seed, (name, kind) in enumerate({"a": one, "b": two}.items())]
        prepared = prepare_merge(MergeRequest([str(tmp_path / name) for name in "ab"], Simple(), heads=heads))
        assert len(prepared.agreement.notes) <= 3
        write_output(prepared, tmp_path / "out", {"name": "simple"})
        encoders = [model.base_model.state_dict() for model in models]
        merged = transformers.AutoModel.from_pretrained(tmp_path / "out").base_model.state_dict()
        shared = set(encoders[0]) & set(encoders[1])
        assert len(shared) > 30
        for name in shared:
            expected = (encoders[0][name].double() + encoders[1][name].double()) / 2
            assert torch.allclose(merged[name].double(), expected, atol=1e-7), name
        if heads == "drop" or not prepared.agreement.apart:
            return
        for name, model in zip("ab", models, strict=True):
            whole = load_with_head(tmp_path / "out", name)
            assert type(whole) is type(model)
            for key, value in whole.state_dict().items():
                part = key.removeprefix("bert.") if type(model).__name__ != "BertModel" else key
                if part in shared and (part == key or key.startswith("bert.")):
                    assert torch.allclose(value, merged[part])
                elif key == "cls.predictions.decoder.weight":  # tied to the embedding, which is merged
                    assert torch.equal(value, merged["embeddings.word_embeddings.weight"])
                else:
                    assert torch.equal(value, model.state_dict()[key]), key


class TestSettings:
    def two(self, tmp_path: Path, kind: str, one: dict[str, Any], two: dict[str, Any]) -> list[Path]:
        save(tmp_path / "a", kind, 0)
        save(tmp_path / "b", kind, 1)
        edit(tmp_path / "a", **one)
        edit(tmp_path / "b", **two)
        return [tmp_path / "a", tmp_path / "b"]

    @pytest.mark.parametrize(
        ("kind", "one", "two"),
        [
            ("BertForMaskedLM", {}, {"is_decoder": True}),
            ("BertForMaskedLM", {}, {"hidden_act": "relu"}),
            ("BertForMaskedLM", {}, {"a_setting_of_tomorrow": 3}),
            ("RobertaForMaskedLM", {"pad_token_id": 1}, {"pad_token_id": 0}),
            ("EsmForMaskedLM", {"token_dropout": True}, {"token_dropout": False}),
            ("LlamaForCausalLM", {}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}),
        ],
    )
    def test_what_changes_the_outputs_is_refused(
        self, tmp_path: Path, kind: str, one: dict[str, Any], two: dict[str, Any]
    ) -> None:
        folders = self.two(tmp_path, kind, one, two)
        (problem,) = refused(*folders)
        assert next(iter(two)) in problem

    @pytest.mark.parametrize(
        ("kind", "two"),
        [
            ("BertForMaskedLM", {"hidden_dropout_prob": 0.5, "torch_dtype": "float32", "_name_or_path": "me"}),
            ("BertForMaskedLM", {"initializer_range": 0.5, "use_cache": False, "id2label": {"0": "x", "1": "y"}}),
            ("LlamaForCausalLM", {"rope_parameters": "absent", "rope_theta": 10000, "rope_scaling": None}),
            ("LlamaForCausalLM", {"eos_token_id": 7, "pretraining_tp": 2, "temperature": 0.6}),
        ],
    )
    def test_what_does_not_is_merged(self, tmp_path: Path, kind: str, two: dict[str, Any]) -> None:
        prepare_merge(MergeRequest([str(folder) for folder in self.two(tmp_path, kind, {}, two)], Simple()))


class TestLabels:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"id2label": ["x", "y", "z"]}, "id2label is a list"),
            ({"id2label": {"1": "x", "2": "y", "3": "z"}}, "numbers the labels 1, 2, 3"),
            ({"id2label": {"x": 0, "y": 1, "z": 2}}, "no number of an output"),
            ({"id2label": {"0": "x", "1": "y"}, "num_labels": 3}, "names 2 labels, but num_labels is 3"),
            ({"label2id": {"anger": 1, "fear": 0, "joy": 2}}, "label2id numbers 'anger' 1, id2label 0"),
            ({"id2label": {"0": "x", "1": "y", "2": "x"}}, "'x' stands for outputs 0 and 2"),
        ],
    )
    def test_maps_that_cannot_be_read(
        self, tmp_path: Path, pico_cache: Path, settings: dict[str, Any], expected: str
    ) -> None:
        for seed, name in enumerate("ab"):
            save_classifier(tmp_path / name, pico_cache, seed)
        edit(tmp_path / "b", **settings)
        problems = refused(tmp_path / "a", tmp_path / "b")
        assert any(expected in problem and "id2label" in problem for problem in problems)

    def test_a_repeated_name_does_not_matter_to_heads_that_are_kept(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            save_classifier(tmp_path / name, pico_cache, seed, labels=["x", "y", "x"])
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        prepare_merge(MergeRequest([str(tmp_path / name) for name in "ab"], Simple(), heads="keep"))


def test_metadata_that_is_null(tmp_path: Path, pico_cache: Path) -> None:
    save_classifier(tmp_path / "a", pico_cache, 0)
    path = tmp_path / "a" / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    before = stored_tensors(tmp_path / "a")
    text = json.dumps({**header, "__metadata__": None}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert set(stored_tensors(tmp_path / "a")) == set(before)

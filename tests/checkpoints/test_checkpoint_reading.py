"""Files of checkpoints' folders: shards, links, pickles, and reading by rows."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from checkpoint_folders import merge_into, save_classifier, tensors_of, tokenizer_of
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from regmean_lab.checkpoints.architecture_reading import read_architecture
from regmean_lab.checkpoints.sources import find_sources, locate, unique_names
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.config.groups import ModelConfig
from regmean_lab.merging import MergeError
from regmean_lab.merging.simple import Simple
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.folders import check_weights, conversion_command, stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import ModelError, load_model
from regmean_lab.utils.files import INDEX_FILE


def sharded(folder: Path) -> Path:
    """Two files and their index."""
    folder.mkdir(parents=True)
    save_file({"a": torch.arange(12.0).view(4, 3)}, folder / "one.safetensors")
    save_file({"b": torch.ones(2, dtype=torch.int64)}, folder / "two.safetensors")
    write_index(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    return folder


def write_index(folder: Path, names: object) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": names}))


def problems(folder: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        stored_tensors(folder)
    return caught.value.problems


def test_reads_shards_whole_and_by_rows(tmp_path: Path) -> None:
    weights = FileWeights(stored_tensors(sharded(tmp_path / "model")))
    expected = tensors_of(tmp_path / "model")
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(weights[name], tensor)
        assert weights[name].dtype == tensor.dtype
    assert torch.equal(weights.rows("a", 1, 3), expected["a"][1:3])
    assert weights.rows("a", 2, 2).shape == (0, 3)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors", "sub/x.safetensors", "x.bin", 3])
def test_index_cannot_name_files_elsewhere(tmp_path: Path, name: object) -> None:
    folder = sharded(tmp_path / "model")
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    write_index(folder, {"a": name, "b": "two.safetensors"})
    (problem,) = problems(folder)
    assert "not the plain name" in problem
    assert "'a'" in problem


def test_links_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    os.replace(folder / "one.safetensors", tmp_path / "outside.safetensors")
    os.symlink(tmp_path / "outside.safetensors", folder / "one.safetensors")
    assert "leads out of its folder" in problems(folder)[0]


def test_links_into_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "models--a--b" / "snapshots" / "0123")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    os.replace(folder / "one.safetensors", blobs / "abc")
    os.symlink(blobs / "abc", folder / "one.safetensors")
    assert set(stored_tensors(folder)) == {"a", "b"}


def test_index_and_files_must_agree(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    write_index(folder, {"a": "one.safetensors", "b": "one.safetensors"})
    assert "'b' is not in one.safetensors" in problems(folder)[0]
    write_index(folder, {"a": "one.safetensors", "b": "missing.safetensors"})
    assert "missing.safetensors, which is not there" in problems(folder)[0]
    write_index(folder, {"b": "one.safetensors"})
    assert "but one.safetensors has it" in problems(folder)[0]
    write_index(folder, [])
    assert "weight_map" in problems(folder)[0]


def test_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    save_classifier(tmp_path / "model", tmp_path, seed=0)
    (tmp_path / "model" / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    (problem,) = problems(tmp_path / "model")
    assert "pytorch_model.bin" in problem
    assert conversion_command(tmp_path / "model") in problem
    assert not (tmp_path / "sprung").exists()


def test_all_that_a_tokenizer_consists_of_comes_along(tmp_path: Path) -> None:
    files = {
        "chat_template.jinja": "{{ messages }}",
        "additional_chat_templates/tool_use.jinja": "{{ tools }}",
        "generation_config.json": '{"max_new_tokens": 7}',
        "bpe.codes": "codes",
    }
    for seed, name in enumerate(("one", "two")):
        save_classifier(tmp_path / name, tmp_path, seed=seed)
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(content)
    merged = merge_into(tmp_path / "merged", [tmp_path / "one", tmp_path / "two"], Simple())
    assert {file: (merged / file).read_text() for file in files} == files
    assert tokenizer_of(merged).get_chat_template("tool_use") == "{{ tools }}"
    read = json.loads((merged / "merge.json").read_text())["checkpoints"][0]["sha256"]
    assert set(files) <= set(read)


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    weights = FileWeights(stored_tensors(tmp_path))
    os.truncate(path, 2000)
    with pytest.raises(MergeError, match="cut off"):
        weights["a"]


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="F8_E4M3 cannot be merged"):
        FileWeights(stored_tensors(tmp_path))


def test_members_are_loaded_only_with_sound_headers(tmp_path: Path) -> None:
    save_classifier(tmp_path / "model", tmp_path, seed=0)
    weights = tmp_path / "model" / "model.safetensors"
    load_model(AutoModelForSequenceClassification, tmp_path / "model")
    os.truncate(weights, weights.stat().st_size - 4)
    with pytest.raises(CheckpointError):
        check_weights(tmp_path / "model")
    with pytest.raises(ModelError, match="not within"):
        load_model(AutoModelForSequenceClassification, tmp_path / "model")
    with pytest.raises(ModelError, match=r"model\.checkpoint: .*not within"):
        find_checkpoint(ModelConfig(name="x", checkpoint=str(tmp_path / "model")), tmp_path)


def test_a_configuration_that_never_ends_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="not a file"):
        read_architecture(tmp_path, 100)


class TestConfiguration:
    def changed(self, tmp_path: Path, **changes: object) -> Path:
        folder = tmp_path / "model"
        save_classifier(folder, tmp_path, seed=0)
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **changes}))
        return folder

    def test_code_is_named_but_not_run(self, tmp_path: Path) -> None:
        folder = self.changed(tmp_path, auto_map={"AutoModel": "evil.Model"})
        (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'sprung')!r})")
        architecture = read_architecture(folder, 100)
        assert architecture.name == "BertForSequenceClassification"
        assert "auto_map" in architecture.notes[0]
        assert "auto_map" not in architecture.config.to_dict()
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"model_type": "mine", "auto_map": {"AutoModel": "evil.Model"}}, "needs code of its own"),
            ({"model_type": "mine"}, "is not known"),
            ({"architectures": ["system"]}, "has no model 'system'"),
            ({"num_hidden_layers": 10**9}, "the weights have 100 tensors"),
            ({"num_labels": 10**9}, "at most 1000000 labels"),
            ({"quantization_config": {"bits": 4}}, "quantized"),
            ({"hidden_size": "wide"}, "no model can be made of it"),
            ({"id2label": {"0": "a", "7": "b"}}, "id2label numbers the labels 0, 7"),
        ],
    )
    def test_what_cannot_be_a_model_is_refused(self, tmp_path: Path, changes: dict[str, object], expected: str) -> None:
        with pytest.raises(CheckpointError, match=expected):
            read_architecture(self.changed(tmp_path, **changes), 100)


class TestSources:
    def test_folders_have_short_names_of_their_own(self, tmp_path: Path) -> None:
        assert unique_names(["a/model", "b/model", "c/other/", "owner/..x y"]) == ["model-1", "model-2", "other", "x_y"]
        assert len(set(unique_names(["a/m", "b/m", "c/m-1"]))) == 3

    def test_all_missing_ones_are_told(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError) as caught:
            find_sources([str(tmp_path / "nowhere"), str(tmp_path / "empty"), "no name"])
        assert len(caught.value.problems) == 3

    def test_names_of_the_hub_need_the_hub(self) -> None:
        with pytest.raises(CheckpointError, match="hf download"):
            locate("someone/some-model-that-is-not-cached")

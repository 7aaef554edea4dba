from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from regmean_lab.merging import MergeError
from regmean_lab.merging.weights import SafetensorsWeights, tensor_shape

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.arange(2)}


def sharded(folder: Path, files: dict[str, list[str]]) -> Path:
    for file, names in files.items():
        save_file({name: TENSORS[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in files.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("files", [None, {"one.safetensors": ["a", "c"], "two.safetensors": ["b"]}])
def test_reads_one_file_or_several(tmp_path: Path, files: dict[str, list[str]] | None) -> None:
    if files is None:
        save_file(TENSORS, tmp_path / "model.safetensors")
    else:
        sharded(tmp_path, files)
    weights = SafetensorsWeights(tmp_path)
    assert (set(weights), len(weights)) == (set(TENSORS), 3)
    for name, expected in TENSORS.items():
        assert torch.equal(weights[name], expected)
        assert weights[name].dtype == expected.dtype
        assert weights.shape(name) == tensor_shape(weights, name) == tensor_shape(TENSORS, name) == expected.shape


def test_an_unknown_name_is_a_key_error(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(KeyError):
        SafetensorsWeights(tmp_path)["d"]


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(MergeError, match=r"no model\.safetensors"):
        SafetensorsWeights(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x05\x00")
    with pytest.raises(MergeError, match=r"model\.safetensors: not a readable safetensors file"):
        SafetensorsWeights(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    sharded(tmp_path, {"one.safetensors": ["a"], "two.safetensors": ["b"]})
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(MergeError, match=r"two\.safetensors"):
        SafetensorsWeights(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"metadata": {}}', '{"weight_map": [1]}'])
def test_a_damaged_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(MergeError, match=r"index\.json: .*weight_map"):
        SafetensorsWeights(tmp_path)


def test_an_index_must_stay_in_its_folder(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MergeError, match=r"outside its folder: \.\./secret"):
        SafetensorsWeights(folder)

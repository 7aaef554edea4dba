from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from statistics_models import classifier, text_batch
from torch import Tensor

from regmean_lab.statistics import (
    FisherFile,
    FisherStatistics,
    GramFile,
    GramStatistics,
    StatisticsError,
    check_finite,
    collect_fisher,
    collect_gram,
    save_fisher,
    save_gram,
)

GRAM = GramStatistics(
    matrices={"q": torch.tensor([[2.0, 1.0], [1.0, 3.0]]), "head": torch.tensor([[5.0]])},
    shared={"q": "q", "k": "q", "head": "head"},
    rows={"q": 7, "head": 2},
    examples=2,
    batches=1,
)
FISHER = FisherStatistics(
    diagonals={"embed.weight": torch.rand(3, 2), "head.bias": torch.rand(2)},
    shared={"embed.weight": "embed.weight", "decoder.weight": "embed.weight", "head.bias": "head.bias"},
    examples=4,
    batches=2,
    labels_from="pseudo",
    likelihood="bernoulli",
)
METADATA = {"data_fingerprint": "sha256:0f", "settings": {"batches": 1000, "layers": None}, "model": "pico"}


def test_gram_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "gram.safetensors"
    save_gram(path, GRAM, METADATA)
    with GramFile(path) as file:
        assert file.layers == ["q", "k", "head"]
        assert file.shared == GRAM.shared
        assert file.rows == GRAM.rows
        assert (file.examples, file.batches) == (2, 1)
        assert file.metadata["data_fingerprint"] == "sha256:0f"
        assert file.metadata["settings"] == METADATA["settings"]
        assert file.metadata["model"] == "pico"
        for layer in GRAM.layers:
            assert torch.equal(file.matrix(layer), GRAM.matrix(layer))
        with pytest.raises(StatisticsError, match="nothing for 'v'; it has 'q', 'k', 'head'"):
            file.matrix("v")
    with pytest.raises(StatisticsError, match="closed"):
        file.matrix("q")
    check_finite(path)


def test_fisher_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "fisher.safetensors"
    save_fisher(path, FISHER, METADATA)
    file = FisherFile(path)
    assert file.parameters == ["embed.weight", "decoder.weight", "head.bias"]
    assert (file.metadata["labels_from"], file.metadata["likelihood"]) == ("pseudo", "bernoulli")
    for parameter in file.parameters:
        assert torch.equal(file.diagonal(parameter), FISHER.diagonal(parameter))
    check_finite(path)


def test_the_format_as_other_programs_see_it(tmp_path: Path) -> None:
    save_gram(tmp_path / "gram.safetensors", GRAM, METADATA)
    with safe_open(str(tmp_path / "gram.safetensors"), framework="pt") as raw:
        metadata = raw.metadata()
        assert sorted(raw.keys()) == ["head", "q"]
    assert metadata == {
        "format": "regmean_lab.statistics",
        "version": "1",
        "kind": "gram",
        "rows": metadata["rows"],
        "examples": "2",
        "batches": "1",
        "shared": metadata["shared"],
        "data_fingerprint": "sha256:0f",
        "settings": metadata["settings"],
        "model": '"pico"',
    }
    assert json.loads(metadata["rows"]) == {"q": 7, "head": 2}
    assert json.loads(metadata["shared"]) == GRAM.shared
    assert json.loads(metadata["settings"]) == METADATA["settings"]
    save_fisher(tmp_path / "fisher.safetensors", FISHER, {})
    with safe_open(str(tmp_path / "fisher.safetensors"), framework="pt") as raw:
        metadata = raw.metadata()
    assert metadata["kind"] == "fisher"
    assert (metadata["rows"], metadata["data_fingerprint"], metadata["settings"]) == ("{}", "", "{}")


def test_collected_statistics_come_back_as_float32(tmp_path: Path) -> None:
    model = classifier("bert")
    batches = [text_batch((5, 3), seed=0), text_batch((2, 6), seed=1)]
    gram = collect_gram(model, batches, dtype=torch.float64)
    fisher = collect_fisher(model, batches, dtype=torch.float64)
    save_gram(tmp_path / "gram.safetensors", gram, {})
    save_fisher(tmp_path / "fisher.safetensors", fisher, {})
    gram_file, fisher_file = GramFile(tmp_path / "gram.safetensors"), FisherFile(tmp_path / "fisher.safetensors")
    assert gram_file.layers == gram.layers
    for layer in gram.layers:
        matrix = gram_file.matrix(layer)
        assert torch.equal(matrix, gram.matrix(layer).float())
        assert torch.equal(matrix, matrix.T)
    assert set(load_file(tmp_path / "gram.safetensors")) == set(gram.matrices)
    for name, _ in model.named_parameters():
        assert torch.equal(fisher_file.diagonal(name), fisher.diagonal(name).float())


def test_writing_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "gram.safetensors"
    save_gram(path, GRAM, {"model": "old"})
    save_gram(path, GRAM, {"model": "new"})
    assert GramFile(path).metadata["model"] == "new"
    assert os.listdir(path.parent) == ["gram.safetensors"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gram.safetensors"
    save_gram(path, GRAM, {})
    before = path.read_bytes()

    def cut_off(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("regmean_lab.statistics.store.save_file", cut_off)
    with pytest.raises(OSError, match="disk full"):
        save_gram(path, GRAM, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["gram.safetensors"]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"rows": {}, "kind": "x"}, "'kind', 'rows': the name belongs to the format"),
        ({"settings": {1, 2}}, "'settings' cannot be written as JSON"),
        ({"settings": {"alpha": float("nan")}}, "'settings' cannot be written as JSON"),
        ({"data_fingerprint": 3}, "'data_fingerprint' is 3, expected a string"),
    ],
)
def test_metadata_that_cannot_be_kept_is_told(tmp_path: Path, metadata: Any, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        save_gram(tmp_path / "gram.safetensors", GRAM, metadata)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_check_finite_names_file_and_tensor(tmp_path: Path, value: float) -> None:
    path = tmp_path / "fisher.safetensors"
    broken = FisherStatistics(
        {**FISHER.diagonals, "head.bias": torch.tensor([0.0, value])}, FISHER.shared, 1, 1, "true", "categorical"
    )
    save_fisher(path, broken, {})
    with pytest.raises(StatisticsError, match=r"fisher\.safetensors: NaN or infinity in 'head\.bias'; delete the file"):
        check_finite(path)


# Damaged and foreign files


def rewritten(change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> Callable[[Path], None]:
    """Read a file, change its tensors and metadata, and write it back."""

    def apply(path: Path) -> None:
        tensors = load_file(path)
        with safe_open(str(path), framework="pt") as raw:
            metadata = raw.metadata()
        change(tensors, metadata)
        save_file(tensors, path, metadata=metadata)

    return apply


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: path.write_bytes(path.read_bytes()[:-3]), "not a readable safetensors file"),
    (lambda path: path.write_bytes(path.read_bytes()[:20]), "not a readable safetensors file"),
    (lambda path: path.write_bytes(b""), "not a readable safetensors file"),
    (lambda path: path.write_text("not tensors at all"), "not a readable safetensors file"),
    (lambda path: save_file({"q": torch.eye(2)}, path), "not a statistics file"),
    (rewritten(lambda tensors, metadata: metadata.update(format="pt")), "not a statistics file"),
    (rewritten(lambda tensors, metadata: metadata.update(version="2")), "version '2' of the format"),
    (rewritten(lambda tensors, metadata: metadata.update(kind="fisher")), "kind 'fisher', expected gram"),
    (rewritten(lambda tensors, metadata: metadata.pop("rows")), "metadata 'rows' missing"),
    (rewritten(lambda tensors, metadata: metadata.update(rows="{")), "metadata 'rows' is not JSON"),
    (rewritten(lambda tensors, metadata: metadata.update(shared="[]")), r"metadata 'shared' is \[\], expected dict"),
    (rewritten(lambda tensors, metadata: metadata.update(examples='"2"')), "metadata 'examples' is '2', expected int"),
    (rewritten(lambda tensors, metadata: metadata.update(rows='{"q": 7}')), "'rows' has None for 'head'"),
    (rewritten(lambda tensors, metadata: metadata.update(rows='{"q": 0, "head": 2}')), "'rows' has 0 for 'q'"),
    (rewritten(lambda tensors, metadata: tensors.pop("q")), "tensor 'q' missing"),
    (rewritten(lambda tensors, metadata: tensors.update(v=torch.eye(2))), "tensor 'v' not in metadata 'shared'"),
    (rewritten(lambda tensors, metadata: tensors.update(q=torch.eye(2).double())), "tensor 'q' is F64, expected F32"),
    (rewritten(lambda tensors, metadata: tensors.update(q=torch.ones(2, 3))), r"'q' has shape \[2, 3\], expected a sq"),
    (rewritten(lambda tensors, metadata: tensors.update(q=torch.ones(2))), r"'q' has shape \[2\], expected a square"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_told_with_the_file_and_what_to_do(
    tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    path = tmp_path / "gram.safetensors"
    save_gram(path, GRAM, METADATA)
    damage(path)
    with pytest.raises(StatisticsError, match=message) as raised:
        GramFile(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert str(raised.value).endswith("; delete the file to have it collected again")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match=r"none\.safetensors: no such file"):
        GramFile(tmp_path / "none.safetensors")
    with pytest.raises(StatisticsError, match="no such file"):
        check_finite(tmp_path / "none.safetensors")


def test_each_kind_is_read_by_its_own_class(tmp_path: Path) -> None:
    path = tmp_path / "gram.safetensors"
    save_gram(path, GRAM, {})
    with pytest.raises(StatisticsError, match="kind 'gram', expected fisher"):
        FisherFile(path)

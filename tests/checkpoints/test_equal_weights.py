"""Checkpoints that a merge would count twice, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_folders import LABELS, merge_into, save_classifier, sentence_folder
from safetensors.torch import load_file, save_file

from regmean_lab.checkpoints.merge import MergeRequest, PreparedMerge, prepare_merge
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.models.headers import CheckpointError

LAST = "classifier.bias"


@pytest.fixture
def folders(tmp_path: Path, pico_cache: Path) -> Path:
    for seed, name in enumerate("abc"):
        save_classifier(tmp_path / name, pico_cache, seed)
    return tmp_path


def prepared(root: Path, names: str, method: MergeMethod | None = None, **settings: object) -> PreparedMerge:
    given = [str(root / name) for name in names.split()]
    return prepare_merge(MergeRequest(given, method or Simple(), **settings))  # type: ignore[arg-type]


def change(folder: Path, name: str, change: Callable[[torch.Tensor], None]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state[name])
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("again", ["a", "./a", "b/../a", "link"])
def test_one_that_is_given_twice_is_refused_with_its_weight(folders: Path, again: str) -> None:
    (folders / "link").symlink_to(folders / "a")
    with pytest.raises(CheckpointError) as raised:
        prepared(folders, f"a b {again}")
    (problem,) = raised.value.problems
    assert "given 2 times; give each once, with its weight: method.coefficients=[0.667,0.333]" in problem
    with pytest.raises(CheckpointError, match="merge two or more different ones"):
        prepared(folders, f"a {again}")


def test_what_the_message_says_is_what_was_meant(folders: Path) -> None:
    """A checkpoint twice, as a copy, is what the weights of the message merge."""
    shutil.copytree(folders / "a", folders / "copy")
    twice = merge_into(folders / "twice", [folders / name for name in ("a", "b", "copy")], Simple())
    weighted = merge_into(folders / "weighted", [folders / "a", folders / "b"], Simple(coefficients=[2 / 3, 1 / 3]))
    one, other = (load_file(folder / "model.safetensors") for folder in (twice, weighted))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_equal_weights_are_told(folders: Path, pico_cache: Path, shards: str) -> None:
    save_classifier(folders / "again", pico_cache, 0, max_shard_size=shards)
    (warning,) = prepared(folders, "a b again c").warnings
    assert warning.startswith("a and again have equal weights in everything that is merged, so that one model counts 2")
    merged = merge_into(folders / "merged", [folders / "a", folders / "again"], Simple())
    assert json.loads((merged / "merge.json").read_text())["notes"][0].startswith("a and again have equal weights")
    assert "- a and again have equal weights" in (merged / "README.md").read_text()


def test_labels_in_another_order_hide_nothing(folders: Path, pico_cache: Path) -> None:
    order = [2, 0, 1]
    save_classifier(folders / "turned", pico_cache, 0, labels=[LABELS[number] for number in order])
    assert prepared(folders, "a turned").warnings == []
    for name in ("classifier.weight", LAST):
        change(folders / "turned", name, lambda rows: rows.copy_(rows[order].clone()))
    assert len(prepared(folders, "a turned").warnings) == 1


def test_one_value_makes_another_model(folders: Path) -> None:
    """Whatever the place of the one element that differs."""
    for name, place in ((LAST, 0), ("bert.embeddings.word_embeddings.weight", (3, 5))):
        shutil.rmtree(folders / "almost", ignore_errors=True)
        shutil.copytree(folders / "a", folders / "almost")
        assert len(prepared(folders, "a almost b").warnings) == 1
        change(folders / "almost", name, lambda tensor, place=place: tensor[place].add_(1))  # type: ignore[misc]
        assert prepared(folders, "a almost b").warnings == []


def test_heads_that_are_kept_do_not_count(folders: Path) -> None:
    shutil.copytree(folders / "a", folders / "head")
    change(folders / "head", LAST, lambda tensor: tensor.add_(1).mul_(2))
    assert prepared(folders, "a head").warnings == []
    assert len(prepared(folders, "a head", heads="keep").warnings) == 1


def test_a_member_that_is_the_base(folders: Path) -> None:
    shutil.copytree(folders / "a", folders / "copy")
    for base in ("a", "copy"):
        (warning,) = prepared(folders, "a b", TaskArithmetic(), base=str(folders / base)).warnings
        assert warning.startswith(
            "a has the weights of the base in everything that the base has: its task vector is zero"
        )
    assert prepared(folders, "a b", TaskArithmetic(), base=str(folders / "c")).warnings == []
    assert prepared(folders, "a b", Simple(), base=str(folders / "a")).warnings == []  # a mean with the base is none


def test_modules_of_embedding_models_count(tmp_path: Path, pico_cache: Path) -> None:
    for name in ("one", "other"):
        sentence_folder(tmp_path / name, pico_cache, 0)
    assert len(prepared(tmp_path, "one other").warnings) == 1
    dense = tmp_path / "other" / "2_Dense"
    change(dense, "linear.bias", lambda tensor: tensor.add_(1))
    assert prepared(tmp_path, "one other").warnings == []


def test_most_is_not_read(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that differ are told apart by a few rows."""
    read = []
    plain = FileWeights.rows

    def rows(self: FileWeights, name: str, start: int, stop: int) -> torch.Tensor:
        read.append(stop - start)
        return plain(self, name, start, stop)

    monkeypatch.setattr(FileWeights, "rows", rows)
    assert prepared(folders, "a b c", TaskArithmetic(), base=str(folders / "c")).warnings != []
    read.clear()
    assert prepared(folders, "a b c").warnings == []
    assert sum(read) <= 3 * 2

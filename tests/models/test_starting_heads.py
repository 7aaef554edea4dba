"""Checkpoints that were fine-tuned before as what training begins with: their heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from regmean_lab.config.groups import ModelConfig, TrainingConfig
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.experiment import run
from regmean_lab.models.base_weights import base_weights
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import Checkpoint, ModelError, head_parameters
from regmean_lab.modules import module_type
from regmean_lab.suites.base import Task
from regmean_lab.training.descriptions import describe
from regmean_lab.training.starting_heads import head_note, head_problems

SIGNS = Task("single_label", ("negative", "positive"), "macro_f1")


def fine_tuned(folder: Path, architecture: str, cache: Path, labels: tuple[str, ...]) -> Path:
    """A classifier as another tool would have left it."""
    source = pico_folder(architecture, cache)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: place for place, label in enumerate(labels)}}
    config = AutoConfig.from_pretrained(source, num_labels=len(labels), **names)
    model = AutoModelForSequenceClassification.from_pretrained(source, config=config)
    model.save_pretrained(folder)
    for path in source.glob("*token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def checkpoint_of(folder: Path, new_head: bool = False) -> Checkpoint:
    return find_checkpoint(ModelConfig("mine", str(folder), new_head=new_head), folder)


def test_another_size_is_told_with_both_sizes(tmp_path: Path, pico_cache: Path) -> None:
    checkpoint = checkpoint_of(fine_tuned(tmp_path / "m", "bert", pico_cache, ("a", "b", "c")))
    (problem,) = head_problems(checkpoint, {"one": SIGNS, "other": SIGNS})
    assert "classifier.weight 3 × 16 where 2 × 16 is needed" in problem
    assert "for the 2 labels of one, other" in problem
    assert "its labels: a, b, c" in problem
    assert "model.new_head=true" in problem
    with pytest.raises(ModelError, match=r"other sizes .* model\.new_head=true"):
        checkpoint.load(AutoModelForSequenceClassification, num_labels=2)
    assert head_problems(replace(checkpoint, new_head=True), {"one": SIGNS}) == []


def test_a_pretrained_model_and_a_head_that_fits_have_no_problem(tmp_path: Path, pico_cache: Path) -> None:
    pretrained = find_checkpoint(ModelConfig("pico", "pico:roberta"), pico_cache)
    assert head_problems(pretrained, {"one": SIGNS}) == []
    assert head_note(pretrained, SIGNS) is None
    same = checkpoint_of(fine_tuned(tmp_path / "same", "roberta", pico_cache, SIGNS.labels))
    assert (head_problems(same, {"one": SIGNS}), head_note(same, SIGNS)) == ([], None)


def test_a_head_for_other_labels_is_told(tmp_path: Path, pico_cache: Path) -> None:
    turned = checkpoint_of(fine_tuned(tmp_path / "turned", "bert", pico_cache, ("positive", "negative")))
    note = head_note(turned, SIGNS)
    assert note is not None
    assert "other labels in another order: positive, negative; row by row they become negative, positive" in note
    assert head_note(replace(turned, new_head=True), SIGNS) is None
    unnamed = checkpoint_of(fine_tuned(tmp_path / "unnamed", "bert", pico_cache, ("LABEL_0", "LABEL_1")))
    assert head_note(unnamed, SIGNS) is None


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "deberta_v2", "gpt2"])
@pytest.mark.parametrize("labels", [("a", "b", "c"), SIGNS.labels])
def test_a_new_head_is_that_of_a_checkpoint_without_one(
    architecture: str, labels: tuple[str, ...], tmp_path: Path, pico_cache: Path
) -> None:
    """The same encoder without any head, and the same seed, give the same model."""
    folder = fine_tuned(tmp_path / "m", architecture, pico_cache, labels)
    checkpoint = checkpoint_of(folder, new_head=True)

    def begin(start: Checkpoint) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return dict(module_type(SIGNS).new_model(start, SIGNS).state_dict())

    found = begin(checkpoint)
    own = AutoModelForSequenceClassification.from_pretrained(folder)
    heads, weights = head_parameters(own), load_file(folder / "model.safetensors")
    bare = {name: value for name, value in weights.items() if name not in heads}
    assert set(heads) <= set(weights)
    base = base_weights(checkpoint, type(own), tmp_path / "cache")
    assert not set(heads) & set(base)
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    expected = begin(checkpoint_of(folder))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_address_of_a_member_changes_with_a_new_head_only(tmp_path: Path, pico_cache: Path) -> None:
    class SuiteOfSigns:
        name = "signs"
        own_heads = False

        def task(self, corpus: str) -> Task:
            return SIGNS

        def fingerprint(self, corpus: str) -> str:
            return "data"

    checkpoint = checkpoint_of(fine_tuned(tmp_path / "m", "bert", pico_cache, SIGNS.labels))
    suite, training = SuiteOfSigns(), TrainingConfig()
    old = describe(checkpoint, suite, ["x"], training, 1)  # type: ignore[arg-type]
    assert old["model"] == {"name": "mine", "fingerprint": checkpoint.fingerprint, "dropout": None}
    new = describe(replace(checkpoint, new_head=True), suite, ["x"], training, 1)  # type: ignore[arg-type]
    assert new["model"] == {**old["model"], "new_head": True}


def test_a_job_is_refused_before_any_work_and_runs_with_a_new_head(
    write_emotions: Callable[[Path], Path], compose_job: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    write_emotions(tmp_path / "data")
    folder = fine_tuned(tmp_path / "m", "bert", pico_cache, ("a", "b", "c"))
    overrides = [
        "suite=emotion",
        "members=[tec,isear]",
        "suite.out_of_domain=[emoint]",
        "model=pico_bert",
        f"model.checkpoint={folder}",
        "method=task_arithmetic",
        "training.steps=1",
        "suite.train_examples=8",
        "trainer=cpu",
        "trainer.progress_bar=false",
        "logger=none",
        *(f"paths.{key}_dir={tmp_path / key}" for key in ("data", "zoo", "output")),
    ]
    with pytest.raises(ConfigurationError, match=r"16 labels of tec, isear\. model\.new_head=true") as refused:
        run(compose_job(*overrides), tmp_path / "job", overrides)
    assert len(refused.value.problems) == 1
    assert not (tmp_path / "zoo").exists() or not list((tmp_path / "zoo").glob("emotion*"))
    result, _ = run(compose_job(*overrides, "model.new_head=true"), tmp_path / "job", overrides)
    assert result is not None


def test_answers_in_words_have_no_new_head(compose_job: Callable[..., DictConfig]) -> None:
    from regmean_lab.config.schema import settings_of

    with pytest.raises(ConfigurationError, match=r"model\.new_head: models of suite emotion_text"):
        settings_of(compose_job("suite=emotion_text", "model=pico_t5", "model.new_head=true"))

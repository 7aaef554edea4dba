"""The pretrained weights as members name them, for every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.base_weights import base_weights
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint, ModelError, head_parameters
from regmean_lab.modules import module_type
from regmean_lab.suites.base import Task


def old_checkpoint(pico: Checkpoint, folder: Path, cache: Path) -> Checkpoint:
    """A checkpoint as old files are: with the prefix of a head, ``gamma`` and ``beta``, and a head of its own."""
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(Path(pico.source) / "model.safetensors").items()
    }
    folder.mkdir()
    (folder / "config.json").write_text((Path(pico.source) / "config.json").read_text())
    save_file({**old, "cls.predictions.bias": torch.ones(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    for file in Path(pico.source).glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return find_checkpoint(ModelConfig("old", str(folder)), cache)


def member_of(
    checkpoint: Checkpoint, auto_class: type, folder: Path
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A model as training begins with it, and what its folder holds."""
    model = checkpoint.load(auto_class)
    model.save_pretrained(folder, save_original_format=False)
    return model, load_file(folder / "model.safetensors")


def test_a_checkpoint_that_lacks_a_layer_is_no_base(tmp_path: Path) -> None:
    pico = find_checkpoint(ModelConfig("pico", "pico:bert"), tmp_path)
    cut = old_checkpoint(pico, tmp_path / "cut", tmp_path)
    path = tmp_path / "cut" / "model.safetensors"
    save_file(
        {name: value for name, value in load_file(path).items() if "layer.1.output" not in name},
        path,
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"lacks bert\.encoder\.layer\.1\.output\..* and 1 more"):
        base_weights(cut, type(pico.load(AutoModelForSequenceClassification)), tmp_path / "cache")
    with pytest.raises(ModelError, match=r"lacks bert\.encoder\.layer\.1\.output\..* and 1 more"):
        cut.load(AutoModelForSequenceClassification)  # training would begin with random numbers there


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize("wrapped", ["_orig_mod.{}", "module._orig_mod.{}", "bert._orig_mod.{}"])
def test_training_begins_with_the_weights_of_a_wrapped_checkpoint(wrapped: str, new_head: bool, tmp_path: Path) -> None:
    """What torch.compile and data parallelism put into names is left out, not the weights with it."""
    pico = find_checkpoint(ModelConfig("pico", "pico:bert"), tmp_path)
    plain = old_checkpoint(pico, tmp_path / "wrapped", tmp_path)
    path = tmp_path / "wrapped" / "model.safetensors"
    stored = {wrapped.format(name.removeprefix("bert.")): value for name, value in load_file(path).items()}
    save_file(stored, path, metadata={"format": "pt"})
    found = find_checkpoint(ModelConfig("wrapped", str(tmp_path / "wrapped"), new_head=new_head), tmp_path)
    model = found.load(AutoModelForSequenceClassification)
    expected = pico.load(AutoModelForSequenceClassification).state_dict()
    own = {name: value for name, value in model.state_dict().items() if name not in head_parameters(model)}
    assert plain.fingerprint != found.fingerprint
    assert len(own) > 30
    assert all(torch.equal(value, expected[name]) for name, value in own.items())


def test_unknown_names_are_told_where_weights_are_lacking(tmp_path: Path) -> None:
    pico = find_checkpoint(ModelConfig("pico", "pico:bert"), tmp_path)
    strange = old_checkpoint(pico, tmp_path / "strange", tmp_path)
    path = tmp_path / "strange" / "model.safetensors"
    save_file({f"x.y.{name}": value for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks bert\.embeddings\..*; its files have x\.y\..* and \d+ more"):
        strange.load(AutoModelForSequenceClassification)


@pytest.mark.parametrize(
    ("architecture", "auto_class"),
    [
        *(
            (name, AutoModelForSequenceClassification)
            for name in ("bert", "roberta", "distilbert", "deberta_v2", "gpt2")
        ),
        ("bert", AutoModelForTokenClassification),
        ("t5", AutoModelForSeq2SeqLM),
        ("gpt2", AutoModelForCausalLM),
    ],
)
def test_are_what_training_begins_with_but_for_a_new_head(
    architecture: str, auto_class: type, tmp_path: Path, pico_cache: Path
) -> None:
    checkpoint = find_checkpoint(ModelConfig("pico", f"pico:{architecture}"), pico_cache)
    model, member = member_of(checkpoint, auto_class, tmp_path / "member")
    base = base_weights(checkpoint, type(model), tmp_path)
    for name in base:
        assert torch.equal(base[name], member[name])
    has_new_head = "LMHead" not in type(model).__name__ and architecture != "t5"
    missing = set(member) - set(base)
    assert missing == (set(head_parameters(model)) if has_new_head else set())
    assert len(missing) < len(member) / 3


def test_a_checkpoint_that_names_its_tensors_otherwise(tmp_path: Path, pico_cache: Path) -> None:
    pico = find_checkpoint(ModelConfig("pico", "pico:bert"), pico_cache)
    checkpoint = old_checkpoint(pico, tmp_path / "old", pico_cache)
    model, member = member_of(checkpoint, AutoModelForSequenceClassification, tmp_path / "member")
    base, expected = base_weights(checkpoint, type(model), tmp_path), base_weights(pico, type(model), tmp_path)
    assert "bert.encoder.layer.0.output.LayerNorm.weight" in base
    assert set(base) == set(expected)
    assert all(torch.equal(base[name], expected[name]) for name in base)
    assert all(torch.equal(base[name], member[name]) for name in base)


def test_members_of_such_a_checkpoint_are_saved_under_the_models_own_names(tmp_path: Path, pico_cache: Path) -> None:
    """Merging puts a member's tensors into a model by their names."""
    pico = find_checkpoint(ModelConfig("pico", "pico:bert"), pico_cache)
    task = Task("single_label", ("no", "yes"), "accuracy")
    module_class = module_type(task)
    model = module_class.new_model(old_checkpoint(pico, tmp_path / "old", pico_cache), task)
    module_class(model, task).save(tmp_path / "member")
    stored = load_file(tmp_path / "member" / "model.safetensors")
    assert set(stored) == set(model.state_dict())
    again = module_class.load_model(tmp_path / "member").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in stored.items())


def test_are_written_once_and_leave_the_random_state_alone(tmp_path: Path, pico_cache: Path) -> None:
    checkpoint = find_checkpoint(ModelConfig("pico", "pico:bert"), pico_cache)
    model = checkpoint.load(AutoModelForSequenceClassification)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = base_weights(checkpoint, type(model), tmp_path)
    assert torch.equal(torch.rand(2), expected)
    (path,) = first.folder.glob("*.safetensors")
    before = path.stat().st_mtime_ns
    assert base_weights(checkpoint, type(model), tmp_path).folder == first.folder
    assert path.stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_another_class_or_checkpoint_has_its_own(tmp_path: Path, pico_cache: Path) -> None:
    checkpoint = find_checkpoint(ModelConfig("pico", "pico:bert"), pico_cache)
    other = Checkpoint("other", checkpoint.source, None, "another fingerprint")
    classes = [
        type(checkpoint.load(auto)) for auto in (AutoModelForSequenceClassification, AutoModelForTokenClassification)
    ]
    folders = {base_weights(one, kind, tmp_path).folder for one in (checkpoint, other) for kind in classes}
    assert len(folders) == 4

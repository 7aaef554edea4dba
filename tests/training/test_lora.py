"""Members trained as LoRA: against a loop with PEFT written by hand, and what PEFT reads of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from regmean_lab import experiment
from regmean_lab.checkpoints.members import read_member
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.config.groups import LoraConfig, TrainingConfig
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.evaluation.checks import check
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.modules import module_type
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.training.train import train_model
from regmean_lab.utils.files import ADAPTER_FOLDER
from regmean_lab.zoo import Zoo

RANK, ALPHA, RATE = 3, 5, 1e-2
LORA = LoraConfig(rank=RANK, alpha=ALPHA)
KINDS: dict[str, tuple[str, list[str], Any, Any]] = {
    "sequences": (
        "pico_bert",
        ["suite=text_classification"],
        AutoModelForSequenceClassification,
        {"target_modules": r".*encoder.*(query|key|value|dense)", "modules_to_save": ["classifier", "bert.pooler"]},
    ),
    "tokens": (
        "pico_distilbert",
        ["suite=token_classification"],
        AutoModelForTokenClassification,
        {"target_modules": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"], "modules_to_save": ["classifier"]},
    ),
    "seq2seq": (
        "pico_t5",
        ["suite=text_generation", "suite.form=seq2seq"],
        AutoModelForSeq2SeqLM,
        {"target_modules": ["q", "k", "v", "o", "wi_0", "wi_1", "wi", "wo"]},
    ),
    "causal": (
        "pico_gpt2",
        ["suite=text_generation", "suite.form=causal"],
        AutoModelForCausalLM,
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    ),
}
"""Model, suite, class of models, and what PEFT is told of them by hand."""


def write_corpora(folder: Path, kind: str) -> list[str]:
    """Two small corpora for a kind of task, and the overrides that name them."""
    named = []
    for corpus in ("a", "b"):
        generator = random.Random(corpus)
        words = ["river", "film", "music", "people", "happy", "angry"]
        texts = [" ".join(generator.choices(words, k=5)) for _ in range(40)]
        if kind == "tokens":
            rows = [
                {"tokens": text.split(), "tags": ["B-X" if w == "film" else "O" for w in text.split()]}
                for text in texts
            ]
        elif kind == "sequences":
            rows = [{"text": text, "label": "good" if "happy" in text else "bad"} for text in texts]
        else:
            rows = [{"text": text, "target": text.split()[0]} for text in texts]
        path = folder / f"{kind}-{corpus}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        named.append(f"suite.corpora.{corpus}={path}")
    return named


@pytest.fixture
def compose_kind(compose_job: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., DictConfig]:
    """The configuration of a job that trains a kind of member."""

    def compose(kind: str, *overrides: str) -> DictConfig:
        model, chosen, _, _ = KINDS[kind]
        corpora = write_corpora(tmp_path, kind)
        common = ["trainer=cpu", "trainer.progress_bar=false", "logger=none", f"paths.zoo_dir={tmp_path / 'zoo'}"]
        rate = [f"training.learning_rate={RATE}", "training.epochs=1", "training.max_length=32"]
        return compose_job(f"model={model}", *chosen, *corpora, *common, *rate, *overrides)

    return compose


def adapted(folder: Path, start: Checkpoint, auto_class: Any) -> dict[str, Tensor]:
    """The adapter of a member, loaded by PEFT onto the pretrained model, as one model."""
    adapter = folder / ADAPTER_FOLDER
    base = auto_class.from_pretrained(start.location, config=AutoConfig.from_pretrained(adapter))
    merged: Any = peft.PeftModel.from_pretrained(base, adapter)
    return dict(merged.merge_and_unload().state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_that_of_a_loop_by_hand(kind: str, compose_kind: Callable[..., DictConfig], tmp_path: Path) -> None:
    """And PEFT makes the same model of the adapter and the pretrained model, as a merge does."""
    settings, start = check(compose_kind(kind))
    training = TrainingConfig(
        learning_rate=RATE, steps=1, batch_size=8, max_length=32, selection="last", gradient_clip=0.0, lora=LORA
    )
    trainer = settings.config.trainer
    folder = tmp_path / "member"
    train_model(folder, start, settings.suite, ["a"], training, trainer, 7)

    pl.seed_everything(7, workers=True, verbose=False)
    task = settings.suite.task("a")
    module = module_type(task)(module_type(task).new_model(start, task), task)
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    auto_class, told = KINDS[kind][2], KINDS[kind][3]
    wrapped: Any = peft.get_peft_model(module.model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, **told))
    data = CorpusDataModule(
        settings.suite, start.tokenizer(), batch_size=8, eval_batch_size=32, max_length=32, seed=7, train_corpora=["a"]
    )
    data.setup("fit")
    module.train()
    optimizer = torch.optim.AdamW([one for one in wrapped.parameters() if one.requires_grad], lr=RATE, weight_decay=0.0)
    module.batch_loss(next(iter(data.train_dataloader()))).backward()
    optimizer.step()
    expected = wrapped.merge_and_unload().state_dict()

    found = load_file(folder / "model.safetensors")
    assert any(not torch.equal(expected[name], before[name]) for name in found)
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    by_peft = adapted(folder, start, auto_class)
    assert all(torch.allclose(by_peft[name], value, atol=1e-6) for name, value in found.items())
    base = find_sources([start.location])[0]
    member = read_member(find_sources([str(folder / ADAPTER_FOLDER)])[0], base)
    assert all(torch.allclose(member.weights[name], found[name], atol=1e-6) for name in member.weights)
    if kind in ("sequences", "tokens"):
        assert member.architecture.labels == list(task.labels)
    loaded = module_type(task).load_model(folder)  # as any other member, without PEFT
    assert not any("lora" in name for name in loaded.state_dict())


def test_members_are_merged_with_statistics_like_any_others(
    compose_kind: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Gram matrices are of the layers with their adapters in them; the best epoch is kept, and found again."""
    overrides = ["method=regmean", "training.lora.rank=2", "training.lora.dropout=0.1", "training.epochs=3"]
    overrides += ["statistics.gram.examples=16", "training.lora.target_modules=[query,value]"]
    config = compose_kind("sequences", *overrides)
    result, computed = experiment.run(config, tmp_path / "job", overrides)
    assert computed
    zoo = Zoo(tmp_path / "zoo")
    for member in ("a", "b"):
        entry = zoo.find(result.zoo[member])
        assert entry is not None and entry.verify() == []
        assert entry.name.startswith(f"text_classification-{member}-pico_bert-lora2-seed1-")
        assert entry.description["training"]["lora"] == {
            "rank": 2,
            "alpha": 16,
            "dropout": 0.1,
            "target_modules": ["query", "value"],
        }
        (statistics,) = entry.statistics_files()
        assert not any("lora" in name or "base_layer" in name for name in load_file(statistics))
        stored = load_file(entry.path / ADAPTER_FOLDER / "adapter_model.safetensors")
        layers = {name.split(".lora_")[0].rpartition(".")[2] for name in stored if "lora_" in name}
        assert layers == {"query", "value"}
        start = check(config)[1]
        by_peft = adapted(entry.path, start, AutoModelForSequenceClassification)
        whole = load_file(entry.path / "model.safetensors")
        assert all(torch.allclose(by_peft[name], value, atol=1e-6) for name, value in whole.items())
    (entry.path / ADAPTER_FOLDER / "adapter_model.safetensors").write_bytes(b"damaged")
    assert any("adapter_model.safetensors" in problem for problem in entry.verify())


def problems(config: DictConfig) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(config)
    return "\n".join(caught.value.problems)


def test_wrong_values_are_told_before_any_work(
    compose_kind: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = problems(compose_kind("sequences", "training.lora.alpha=8"))
    assert told == (
        "training.lora.rank: required with other settings of training.lora; for example training.lora.rank=8"
    )
    told = problems(compose_kind("sequences", "training.lora.rank=0", "training.lora.dropout=1"))
    assert "training.lora.rank: expected at least 1, got 0" in told
    assert "training.lora.dropout: expected a number from 0 to below 1, got 1" in told
    told = problems(compose_kind("sequences", "training.lora.rank=17"))
    assert "training.lora.rank: 17 is larger than every layer that is adapted" in told and "is 16)" in told
    told = problems(
        compose_kind("sequences", "training.lora.rank=2", "training.lora.target_modules=[quary,classifier]")
    )
    assert "quary: no linear layer of BertForSequenceClassification that can be adapted" in told
    assert "did you mean query?" in told
    assert "training.lora.target_modules: classifier: no linear layer" in told
    monkeypatch.setattr("regmean_lab.training.lora.find_spec", lambda name: None)
    told = problems(compose_kind("causal", "training.lora.rank=2"))
    assert told == ("training.lora.rank: needs the package peft; install it with: pip install 'regmean-lab[lora]'")


def test_joint_training_with_several_heads_is_refused(compose_job: Callable[..., DictConfig]) -> None:
    told = problems(compose_job("suite=glue", "model=pico_bert", "method=multitask", "training.lora.rank=2"))
    assert "training.lora.rank: joint training on suite glue has a head for each task" in told

"""``regmean-lab zoo add``: a job finds somebody's checkpoint as a member, with the checkpoint's own scores."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import regmean_lab.training.train
from regmean_lab import experiment
from regmean_lab.__main__ import main
from regmean_lab.config.schema import settings_of
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.zoo import Zoo

MODEL = "model=pico_bert"


def save(folder: Path, cache: Path, labels: tuple[str, ...], seed: int, architecture: str = "bert") -> Any:
    with quiet_transformers():
        source = pico_folder(architecture, cache)
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(labels), **names).eval()
        generator = torch.Generator().manual_seed(seed)
        tokenizer = AutoTokenizer.from_pretrained(source)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            some = tokenizer(
                ["the film was happy", "music and people", "terrible food"], padding=True, return_tensors="pt"
            )
            model.classifier.bias -= model(**some).logits.mean(0)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model


@pytest.fixture
def zoo(tmp_path: Path, made_up_sentiment: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the verb in this process, with the sentiment suite and a zoo of its own."""

    def run(*arguments: str) -> int:
        paths = [f"paths.data_dir={made_up_sentiment}", f"paths.zoo_dir={tmp_path / 'zoo'}", "trainer=cpu"]
        given = ["regmean-lab", "zoo", "add", *arguments, *paths, "trainer.progress_bar=false", "suite=sentiment"]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


def test_a_job_finds_an_added_checkpoint_and_scores_it_as_transformers_does(
    zoo: Callable[..., int],
    tmp_path: Path,
    pico_cache: Path,
    made_up_sentiment: Path,
    compose_job: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its outputs are in the other order than the suite's labels."""
    overrides = [
        *("suite=sentiment", MODEL, "members=[tweets]", "seed=3", "method=individual", "suite.out_of_domain=[]"),
        *("trainer=cpu", "trainer.progress_bar=false", "logger=none", f"paths.data_dir={made_up_sentiment}"),
        f"paths.zoo_dir={tmp_path / 'zoo'}",
    ]
    config = compose_job(*overrides)
    suite = settings_of(config).suite
    labels = tuple(reversed(suite.task("tweets").labels))
    model = save(tmp_path / "mine", pico_cache, labels, 0)
    assert zoo(str(tmp_path / "mine"), "corpus=tweets", MODEL, "seed=3") == 0
    (entry,) = Zoo(tmp_path / "zoo").entries()
    assert capsys.readouterr().out.strip().endswith(entry.name)
    assert entry.verify() == []
    assert torch.equal(
        load_file(entry.weights_path)["classifier.weight"], model.state_dict()["classifier.weight"].flip(0)
    )

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("trained although it is there")

    monkeypatch.setattr(regmean_lab.training.train, "train_model", refuse)
    result, _ = experiment.run(config, tmp_path / "job", overrides)
    assert result.zoo == {"tweets": entry.address}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mine")

    def macro_f1(split: str) -> float:
        examples = suite.examples("tweets", split)
        with torch.no_grad():
            numbers = [int(model(**tokenizer(one.text, return_tensors="pt")).logits.argmax()) for one in examples]
        gold = [suite.task("tweets").labels[one.label] for one in examples]
        return 100 * float(f1_score(gold, [labels[number] for number in numbers], average="macro"))

    assert result.mean_in_domain == pytest.approx(macro_f1("test"), abs=1e-3)
    assert entry.dev_scores["macro_f1"] == pytest.approx(macro_f1("dev"), abs=1e-3)
    assert zoo(str(tmp_path / "mine"), "corpus=tweets", MODEL, "seed=3") == 0  # it is there
    save(tmp_path / "mine", pico_cache, labels, 1)
    assert zoo(str(tmp_path / "mine"), "corpus=tweets", MODEL, "seed=3") == 2
    assert "is there already, with other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "architecture", "message"),
    [
        (("blue", "red"), "bert", "predicts blue, red, and members of the suite"),
        (("negative", "positive"), "distilbert", "is a distilbert model, and model=pico_bert a bert model"),
    ],
)
def test_what_is_no_such_member_is_refused(
    labels: tuple[str, ...],
    architecture: str,
    message: str,
    zoo: Callable[..., int],
    tmp_path: Path,
    pico_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save(tmp_path / "mine", pico_cache, labels, 0, architecture)
    assert zoo(str(tmp_path / "mine"), "corpus=tweets", MODEL) == 2
    assert message in capsys.readouterr().err
    assert Zoo(tmp_path / "zoo").entries() == []


def test_a_wrong_command_line_is_told(zoo: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo("seed=1") == 2
    told = capsys.readouterr().err
    assert "expected one checkpoint, got none" in told and "corpus: required" in told
    assert zoo("mine", "corpus=tweet", MODEL) == 2
    assert "did you mean tweets?" in capsys.readouterr().err
    assert zoo(os.devnull, "corpus=tweets", MODEL) == 2
    assert "neither a folder nor the name" in capsys.readouterr().err

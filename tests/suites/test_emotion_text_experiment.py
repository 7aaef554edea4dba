"""Jobs of the suite on pico models, from overrides to results; scores are checked by plain calls of the models."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.experiment import run
from regmean_lab.modules import module_type
from regmean_lab.results import Result
from regmean_lab.statistics import GramFile

MEMBERS = ("tec", "isear")
MODELS = ("pico_t5", "pico_gpt2")
Job = Callable[..., Result]


@pytest.fixture
def data_dir(tmp_path: Path, write_emotions: Callable[[Path], Path]) -> Path:
    folder = write_emotions(tmp_path / "data")
    for path in (folder / "emotion_splits" / "emoint").iterdir():  # each question is answered anew below, one by one
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    return folder


@pytest.fixture
def run_job(tmp_path: Path, data_dir: Path, compose_job: Callable[..., Any]) -> Job:
    """Runs a job; its folder is named after model and method."""

    def job(model: str, method: str, *overrides: str) -> Result:
        given = [
            *("suite=emotion_text", f"model={model}", f"method={method}", f"members=[{','.join(MEMBERS)}]"),
            *("suite.out_of_domain=[emoint]", "training.learning_rate=0.01", "training.epochs=2", "trainer=cpu"),
            *("training.batch_size=16", "trainer.progress_bar=false", "logger=none", "statistics.fisher.examples=16"),
            *(
                f"paths.data_dir={data_dir}",
                f"paths.zoo_dir={tmp_path}/zoo",
                f"paths.output_dir={tmp_path}/out",
                *overrides,
            ),
        ]
        config = compose_job(*given)
        OmegaConf.set_struct(config, True)
        folder = tmp_path / "out" / f"{model}-{method}"
        folder.mkdir(parents=True, exist_ok=True)
        return run(config, folder, given)[0]

    return job


def questions(data_dir: Path, corpus: str) -> list[tuple[str, str, int]]:
    """Sentence, label and right answer of every question on which a corpus is evaluated, from its files."""
    splits = ("train", "dev", "test") if corpus == "emoint" else ("test",)
    rows = [
        json.loads(line)
        for split in splits
        for line in (data_dir / "emotion_splits" / corpus / f"{split}.jsonl").read_text().splitlines()
    ]
    return [
        (row["text"], name, int(value > 0.1))
        for row in rows
        for name, value in row["emotions"].items()
        if value is not None
    ]


@cache
def loaded(folder: Path) -> tuple[Any, Any]:
    config = json.loads((folder / "config.json").read_text())
    kind = AutoModelForSeq2SeqLM if config["model_type"] == "t5" else AutoModelForCausalLM
    return kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@cache
def decision(folder: Path, text: str, name: str) -> int:
    """Whether a model gives yes a higher log-probability than no: one question, no padding, no batch."""
    model, tokenizer = loaded(folder)
    scores = []
    for word in ("no", "yes"):
        if model.config.is_encoder_decoder:
            source = tokenizer(f"does the sentence express {name}? <extra_id_0> {text}", return_tensors="pt").input_ids
            target = tokenizer(f"<extra_id_0> {word}", return_tensors="pt").input_ids[:, :-1]
            with torch.no_grad():
                logits = model(input_ids=source, labels=target).logits[0]
        else:
            source = tokenizer(f"{text} The sentence expresses {name}.", return_tensors="pt").input_ids
            target = tokenizer(f" {word}", return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(input_ids=torch.cat([source, target], 1)).logits[0, source.shape[1] - 1 : -1]
        scores.append(float(logits.log_softmax(-1).gather(1, target[0, :, None]).sum()))
    return int(scores[1] > scores[0])


def macro_f1(answers: list[tuple[str, int, int]]) -> float:
    """Mean over labels, from label, right answer and given answer."""
    names = {name for name, _, _ in answers}
    each = []
    for name in names:
        right, given = zip(*[(right, given) for label, right, given in answers if label == name], strict=True)
        each.append(f1_score(right, given, zero_division=0.0))
    return 100 * sum(each) / len(each)


def score_of(folder: Path, data_dir: Path, corpus: str) -> float:
    return macro_f1([(name, right, decision(folder, text, name)) for text, name, right in questions(data_dir, corpus)])


@pytest.mark.parametrize("model", MODELS)
def test_all_methods(model: str, run_job: Job, data_dir: Path, tmp_path: Path) -> None:
    """The scores are those of the models that were saved, of members and of merges."""
    merged = {}
    for method in ("simple", "fisher", "regmean", "multitask"):
        result = run_job(model, method, "save_merged=true")
        folder = tmp_path / "out" / f"{model}-{method}" / "merged"
        outside = score_of(folder, data_dir, "emoint")
        assert result.scores["out_of_domain"] == {"emoint": pytest.approx(outside, abs=1e-3)}
        merged[method] = load_file(folder / "model.safetensors")
    for name, value in merged["simple"].items():
        assert set(merged["fisher"]) == set(merged["regmean"]) == set(merged["simple"])
        if name.endswith(("mlp.c_fc.weight", "DenseReluDense.wi_0.weight")):
            assert (merged["regmean"][name] - value).abs().max() > 1e-4
            assert (merged["fisher"][name] - value).abs().max() > 1e-4

    individual = run_job(model, "individual")
    folders = {corpus: next((tmp_path / "zoo").glob(f"*{address}")) for corpus, address in individual.zoo.items()}
    assert tuple(folders) == MEMBERS
    for corpus, folder in folders.items():
        assert individual.scores["in_domain"][corpus] == pytest.approx(score_of(folder, data_dir, corpus), abs=1e-3)
    outside = sum(score_of(folder, data_dir, "emoint") for folder in folders.values()) / 2
    assert individual.scores["out_of_domain"] == {"emoint": pytest.approx(outside, abs=1e-3)}

    ensemble = run_job(model, "ensemble")
    assert ensemble.configuration["method"]["vote"] == "majority"
    known = {"tec": ("joy", "anger", "love"), "isear": ("joy", "anger", "fear")}
    answers = []
    for text, name, right in questions(data_dir, "emoint"):
        votes = [decision(folders[corpus], text, name) for corpus in MEMBERS if name in known[corpus]]
        answers.append((name, right, int(sum(votes) > len(votes) / 2)))
    assert ensemble.scores["out_of_domain"] == {"emoint": pytest.approx(macro_f1(answers), abs=1e-3)}


@pytest.mark.parametrize("model", MODELS)
def test_answers_by_generation(model: str, run_job: Job) -> None:
    """A member that has learned to answer gives the same answers when it writes them."""
    longer = ("training.epochs=8", "training.selection=last", "members=[tec]")
    scored = run_job(model, "individual", *longer)
    written = run_job(model, "individual", *longer, "suite.answer_by=generation", "force=true")
    assert scored.mean_in_domain > 50
    assert written.scores == scored.scores


def test_statistics_with_generation(run_job: Job, tmp_path: Path) -> None:
    """They are kept apart from those without, and count more rows of a decoder."""
    for generation in ("false", "true"):
        run_job("pico_t5", "regmean", f"statistics.gram.generation={generation}", "statistics.gram.examples=32")
    rows = [
        GramFile(path).rows["decoder.block.0.layer.0.SelfAttention.q"]
        for path in sorted((tmp_path / "zoo").glob("emotion_text-tec-*/statistics/gram-*.safetensors"))
    ]
    assert len(rows) == 2
    assert min(rows) == 3 * 32
    assert 2 * min(rows) <= max(rows) <= min(rows) + 4 * 32


def test_configurations_that_cannot_work(compose_job: Callable[..., Any]) -> None:
    config = compose_job("suite=sentiment", "model=minilm", "statistics.gram.generation=true")
    with pytest.raises(
        ConfigurationError, match=r"statistics\.gram\.generation: models of suite sentiment write nothing"
    ):
        settings_of(config)
    with pytest.raises(ConfigurationError, match=r"method\.steps: expected at least 1 or null, got 0"):
        settings_of(compose_job("suite=emotion_text", "model=gpt2", "method=multitask", "method.steps=0"))


def test_models_that_only_read_are_refused_before_any_work(run_job: Job, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model: pico_bert \(bert\) reads texts but does not write"):
        run_job("pico_bert", "simple")
    assert not list((tmp_path / "zoo").glob("emotion_text-*"))


@pytest.mark.parametrize("model", ["t5_v1_1_base", "flan_t5_small", "gpt2", *MODELS])
def test_defaults_of_every_model(model: str, compose_job: Callable[..., Any]) -> None:
    config = compose_job("suite=emotion_text", f"model={model}", "method=ensemble")
    settings = settings_of(config)
    assert settings.method.vote == "majority"
    assert settings.config.statistics.fisher.labels_from == "true"
    assert module_type(settings.suite.task("tec")).__name__ == "TextGenerationModule"
    assert compose_job("suite=emotion", "model=roberta_base", "method=ensemble").method.vote == "soft"


def test_published_settings(compose_job: Callable[..., Any]) -> None:
    t5 = ("suite=emotion_text", "model=t5_v1_1_base")
    training = compose_job(*t5).training
    assert (training.learning_rate, training.steps, training.eval_steps) == (1e-4, 50000, 5000)
    assert (training.batch_size, training.schedule, training.warmup) == (16, "polynomial", 0.06)
    assert compose_job(*t5, "method=regmean").method.off_diagonal == 0.1
    assert compose_job(*t5, "method=multitask").method.steps == 150000


def test_experiment(compose_job: Callable[..., Any]) -> None:
    config = compose_job("experiment=emotion_text_pairwise", return_hydra_config=True)
    assert (config.suite.name, config.model.name, config.experiment) == (
        "emotion_text",
        "t5_v1_1_base",
        "emotion_text_pairwise",
    )
    pairs = str(config.hydra.sweeper.params.members).split("],[")
    assert len(pairs) == 10

"""Members of a job that were fine-tuned elsewhere: found, checked, brought with their statistics, and merged."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from given_folders import save_classifier_of, write_corpus
from omegaconf import DictConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import regmean_lab.callbacks.statistics
import regmean_lab.training.train
from regmean_lab import experiment
from regmean_lab.__main__ import main
from regmean_lab.callbacks.requests import published_path
from regmean_lab.command.members import quoted_members
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.models.pico import pico_folder
from regmean_lab.sweeps.plan import make_plan
from regmean_lab.sweeps.plan_text import plan_text
from regmean_lab.zoo import Zoo

Compose = Callable[..., DictConfig]


@pytest.fixture
def folder(tmp_path: Path, pico_cache: Path) -> Path:
    """Two corpora, and a checkpoint for each; the outputs of the second are in the other order than the labels."""
    for seed, name in enumerate("ab"):
        write_corpus(tmp_path / f"{name}.jsonl", seed)
    save_classifier_of(tmp_path / "first", pico_cache, 1)
    save_classifier_of(tmp_path / "second", pico_cache, 2, ("good", "bad"))
    return tmp_path


@pytest.fixture
def overrides(folder: Path) -> list[str]:
    return [
        *("suite=text_classification", "model=pico_bert", "trainer=cpu", "trainer.progress_bar=false", "logger=none"),
        *(f"suite.corpora.{name}={folder / name}.jsonl" for name in "ab"),
        *(f"paths.zoo_dir={folder / 'zoo'}", f"paths.output_dir={folder / 'outputs'}", "training.epochs=1"),
    ]


def refuse(*arguments: object, **named: object) -> None:
    raise AssertionError("work that was done already")


def members(*given: str) -> str:
    (override,) = quoted_members([f"members=[{','.join(given)}]"])
    return override


def collect(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(
        sys, "argv", ["regmean-lab", "collect", *arguments, "trainer=cpu", "trainer.progress_bar=false"]
    )
    main()


def test_checkpoints_are_merged_by_a_loop_s_formula(
    folder: Path, overrides: list[str], compose_job: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RegMean of two checkpoints: W = (G₁ + G₂)⁻¹ (G₁ W₁ + G₂ W₂) in float64, with inputs that a hook has seen."""
    monkeypatch.setattr(regmean_lab.training.train, "train_model", refuse)
    given = (f"a={folder / 'first'}", f"b={folder / 'second'}")
    config = compose_job(*overrides, members(*given), "method=regmean", "save_merged=true")
    config.method.off_diagonal = 1.0
    result, computed = experiment.run(config, folder / "job", [])
    assert computed and result.members == ["a", "b"]
    suite, name = settings_of(config).suite, "bert.encoder.layer.0.intermediate.dense"
    tokenizer = AutoTokenizer.from_pretrained(folder / "first")
    grams, weights = [], []
    for corpus, checkpoint in (("a", "first"), ("b", "second")):
        model = load(folder / checkpoint)
        inputs: list[torch.Tensor] = []
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, to=inputs: to.append(given[0][0].double()))
        with torch.no_grad():
            for example in suite.examples(corpus, "train"):
                model(**tokenizer(example.text, return_tensors="pt"))
        rows = torch.cat(inputs)
        grams.append(rows.T @ rows / len(rows))
        weights.append(model.get_submodule(name).weight.detach().double())
    expected = torch.linalg.solve(sum(grams), sum(g @ w.T for g, w in zip(grams, weights, strict=True))).T
    merged = load_file(folder / "job" / "merged" / "model.safetensors")
    assert torch.allclose(merged[f"{name}.weight"].double(), expected, atol=2e-4)
    heads = [load(folder / name).classifier.bias.detach() for name in ("first", "second")]
    assert torch.allclose(merged["classifier.bias"], (heads[0] + heads[1].flip(0)) / 2)
    record = json.loads((folder / "job" / "result.json").read_text())["checkpoints"]
    assert {corpus: one["from"] for corpus, one in record.items()} == {"a": "first", "b": "second"}
    assert record["a"]["fingerprint"] != record["b"]["fingerprint"] and record["a"]["revision"] is None
    assert all(entry.verify() == [] for entry in Zoo(folder / "zoo").entries())

    monkeypatch.setattr(regmean_lab.callbacks.statistics, "measure", refuse)
    assert experiment.run(config, folder / "job", [])[1] is False  # found
    assert experiment.run(config, folder / "another", [])[1] is True  # merged again, measured not
    shorter = compose_job(*overrides, members(*given), "method=regmean", "training.max_length=5")
    with pytest.raises(AssertionError, match="done already"):
        experiment.run(shorter, folder / "shorter", [])  # of texts of another length nothing is known
    save_classifier_of(folder / "first", folder / "cache", 3)
    with pytest.raises(AssertionError, match="done already"):
        experiment.run(config, folder / "job", [])  # it is another checkpoint now, of which nothing is known


def load(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_published_statistics_are_used_and_the_others_are_measured(
    method: str, folder: Path, overrides: list[str], compose_job: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"regmean": "gram", "fisher": "fisher"}[method]
    monkeypatch.chdir(folder)
    collect(
        monkeypatch,
        *(f"checkpoint={folder / 'second'}", f"data={folder / 'b.jsonl'}", f"kinds=[{kind}]", "allow_few_rows=true"),
        f"paths.output_dir={folder / 'outputs'}",
    )
    config = compose_job(*overrides, members(f"a={folder / 'first'}", f"b={folder / 'second'}"), f"method={method}")
    text = plan_text(make_plan([([], config)]), None)
    assert f"1 found, 1 to collect (1 {kind})" in text
    assert "0 to train, 2 checkpoints to put there" in text
    assert f"b is the checkpoint {folder / 'second'} (to be put into the zoo; statistics beside it: {kind})" in text
    measured: list[str] = []
    measure = regmean_lab.callbacks.statistics.measure

    def counted(*arguments: Any, **named: Any) -> Any:
        measured.append(arguments[-1])
        return measure(*arguments, **named)

    monkeypatch.setattr(regmean_lab.callbacks.statistics, "measure", counted)
    result, _ = experiment.run(config, folder / "job", [])
    assert [title.split(" of ")[1].split("-")[1] for title in measured] == ["a"]
    assert list(result.checkpoints["b"]["published_statistics"]) == [kind]
    assert result.checkpoints["a"]["published_statistics"] == {}
    entries = {entry.description["corpus"]: entry for entry in Zoo(folder / "zoo").entries()}
    own, brought = (
        load_file(published_path(folder / "second", kind)),
        load_file(published_path(entries["b"].path, kind)),
    )
    assert own.keys() == brought.keys()
    for name, value in own.items():
        flipped = kind == "fisher" and name.startswith("classifier")
        assert torch.equal(brought[name], value.flip(0) if flipped else value), name
    assert experiment.run(config, folder / "job", [])[1] is False  # found
    metadata = _metadata(published_path(folder / "second", kind))
    save_file({name: 2 * value for name, value in own.items()}, published_path(folder / "second", kind), metadata)
    other, computed = experiment.run(config, folder / "job", [])  # published anew: another member
    assert computed and other.zoo["b"] != result.zoo["b"] and other.zoo["a"] == result.zoo["a"]
    again = compose_job(
        *overrides,
        members(f"a={folder / 'first'}", f"b={folder / 'second'}"),
        *(f"method={method}", "statistics.published=false"),
    )
    experiment.run(again, folder / "measured", [])
    assert [title.split(" of ")[1].split("-")[1] for title in measured] == ["a", "b"]


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_what_a_zoo_has_measured_comes_with_its_entries(
    folder: Path, overrides: list[str], compose_job: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_job(*overrides, members(str(folder / "first"), str(folder / "second")), "method=regmean")
    first, _ = experiment.run(config, folder / "job", [])
    monkeypatch.setattr(regmean_lab.callbacks.statistics, "measure", refuse)
    entries = [str(entry.path) for entry in Zoo(folder / "zoo").entries()]
    elsewhere = compose_job(*overrides, members(*entries), "method=regmean", f"paths.zoo_dir={folder / 'other'}")
    assert experiment.run(elsewhere, folder / "elsewhere", [])[0].scores == first.scores


def test_statistics_of_another_variant_or_of_other_weights_are_not_used(
    folder: Path, overrides: list[str], compose_job: Compose, monkeypatch: pytest.MonkeyPatch, pico_cache: Path
) -> None:
    monkeypatch.chdir(folder)
    published = [f"checkpoint={folder / 'second'}", f"data={folder / 'b.jsonl'}", "kinds=[fisher]"]
    published += ["allow_few_rows=true", f"paths.output_dir={folder / 'outputs'}"]
    collect(monkeypatch, *published, "statistics.fisher.labels_from='true'")
    config = compose_job(*overrides, members(f"a={folder / 'first'}", f"b={folder / 'second'}"), "method=fisher")
    assert "0 found, 2 to collect" in plan_text(make_plan([([], config)]), None)
    config.statistics.fisher.labels_from = "true"
    assert "1 found, 1 to collect" in plan_text(make_plan([([], config)]), None)
    save_classifier_of(folder / "second", pico_cache, 4, ("good", "bad"))
    with pytest.raises(
        ConfigurationError, match=r"checkpoints\.b: .*fisher\.safetensors: collected from other weights"
    ):
        experiment.run(config, folder / "job", [])


@pytest.mark.parametrize("form", ["order", "names", "mapping", "zoo"])
def test_the_corpus_of_a_checkpoint_is_found(
    form: str, folder: Path, overrides: list[str], compose_job: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"a": str(folder / "first"), "b": str(folder / "second")}
    given: list[str] = []
    if form == "order":
        given = [members(*expected.values())]
    elif form == "names":
        for name, place in (("b", "first"), ("a", "second")):
            (folder / "named").mkdir(exist_ok=True)
            (folder / place).rename(folder / "named" / name)
        expected = {name: str(folder / "named" / name) for name in "ba"}
        given = [members(*expected.values())]
    elif form == "mapping":
        given = [f"checkpoints.{name}={place}" for name, place in expected.items()]
    elif form == "zoo":
        config = compose_job(*overrides, members(*expected.values()), "method=individual")
        experiment.run(config, folder / "job", [])
        entries = {entry.description["corpus"]: str(entry.path) for entry in Zoo(folder / "zoo").entries()}
        expected = {name: entries[name] for name in "ba"}
        given = [members(*expected.values())]
    settings = settings_of(compose_job(*overrides, *given))
    assert settings.checkpoints == expected
    assert settings.members == (("a", "b") if form in ("order", "mapping") else ("b", "a"))


def test_some_members_may_be_trained(
    folder: Path, overrides: list[str], compose_job: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []
    train = regmean_lab.training.train.train_model

    def counted(*arguments: Any, **named: Any) -> Any:
        trained.append(arguments[3])
        return train(*arguments, **named)

    monkeypatch.setattr(regmean_lab.training.train, "train_model", counted)
    config = compose_job(*overrides, members("a", f"b={folder / 'second'}"), "method=simple")
    result, _ = experiment.run(config, folder / "job", [])
    assert trained == [("a",)]
    assert list(result.checkpoints) == ["b"]
    alone = compose_job(*overrides, "members=[a,b]", "method=simple")
    assert experiment.run(alone, folder / "alone", [])[0].zoo["b"] != result.zoo["b"]
    assert trained == [("a",), ("b",)]


def test_everything_that_is_wrong_is_told_at_once(
    folder: Path, overrides: list[str], compose_job: Compose, pico_cache: Path
) -> None:
    save_classifier_of(folder / "other", pico_cache, 1, ("blue", "red"), "distilbert")
    for seed, name in enumerate("cdef"):
        write_corpus(folder / f"{name}.jsonl", seed)
    more = [f"suite.corpora.{name}={folder / name}.jsonl" for name in "cdef"]
    given = [
        *(f"a={folder / 'other'}", f"b={folder / 'second'}@main", f"c={folder / 'nowhere'}"),
    ]
    with pytest.raises(ConfigurationError) as raised:
        experiment.run(compose_job(*overrides, *more, members(*given)), folder / "job", [])
    told = "\n".join(raised.value.problems)
    assert "checkpoints.a: other predicts blue, red, and members of the suite bad, good" in told
    assert "checkpoints.a: other is a distilbert model, and model=pico_bert a bert model" in told
    assert f"checkpoints.b: {folder / 'second'}@main: a folder has no revisions; leave out @main" in told
    assert f"checkpoints.c: {folder / 'nowhere'}: neither a folder nor the name" in told
    assert Zoo(folder / "zoo").entries() == []

    place = folder / "first"
    given = [f"a={place}", f"a={folder / 'second'}", f"x={place}", str(folder / "second")]
    with pytest.raises(ConfigurationError) as raised:
        settings_of(compose_job(*overrides, *more, members(*given), f"checkpoints.z={place}"))
    told = "\n".join(raised.value.problems)
    assert f"members: two checkpoints for a: {place} and {folder / 'second'}" in told
    assert f"members: x={place}: suite text_classification has no corpus 'x'" in told
    assert "checkpoints.z: suite text_classification has no corpus 'z'" in told
    assert f"members: which corpus {folder / 'second'} was trained on is not clear" in told
    assert "members=['CORPUS=" in told


def test_one_model_as_the_member_of_two_corpora_is_refused(
    folder: Path, overrides: list[str], compose_job: Compose
) -> None:
    shutil.copytree(folder / "first", folder / "copy")
    for other in ("first", "copy"):
        given = members(f"a={folder / 'first'}", f"b={folder / other}")
        with pytest.raises(ConfigurationError, match=r"members: a=.*first, b=.*: the same model, which a merge would"):
            experiment.run(compose_job(*overrides, given, "method=simple"), folder / "job", [])
    result, _ = experiment.run(compose_job(*overrides, given, "method=individual"), folder / "job", [])
    assert list(result.scores["in_domain"]) == ["a", "b"]


def test_settings_that_compute_something_else_are_told(
    folder: Path, overrides: list[str], compose_job: Compose
) -> None:
    path = folder / "first" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 0.1}))
    with pytest.raises(ConfigurationError, match=r"checkpoints\.a: config\.json: layer_norm_eps is 0\.1 in first"):
        experiment.run(compose_job(*overrides, members(f"a={folder / 'first'}", "b")), folder / "job", [])


def test_the_command_takes_members_as_they_are_typed(
    folder: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = f"members=[a={folder / 'first'},{folder / 'second'}]"
    monkeypatch.setattr(sys, "argv", ["regmean-lab", "plan", *overrides, given, "method=regmean"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "2 checkpoints to put there" in capfd.readouterr().out
    assert quoted_members(["members=[a=x/y,b]", "members=[a,b]"]) == ["members=['a=x/y',b]", "members=[a,b]"]


def test_an_adapter_of_a_language_model_is_a_member(tmp_path: Path, pico_cache: Path, compose_job: Compose) -> None:
    """Its perplexity is that of PEFT's own model, summed up text by text."""
    peft = pytest.importorskip("peft")
    base = pico_folder("gpt2", pico_cache)
    rows = [{"text": f"the film was {word} and {n}", "target": f" happy {n}"} for n in range(40) for word in ("a", "b")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, lora_alpha=8, target_modules=["c_attn"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "adapter")
    config = compose_job(
        *("suite=text_generation", "suite.form=causal", "suite.target=target", "suite.key_score=token_accuracy"),
        *("model=pico_gpt2", "trainer=cpu", "trainer.progress_bar=false", "logger=none", "method=individual"),
        *(f"suite.corpora.a={tmp_path / 'a.jsonl'}", f"paths.zoo_dir={tmp_path / 'zoo'}"),
        members(f"a={tmp_path / 'adapter'}"),
    )
    result, _ = experiment.run(config, tmp_path / "job", [])
    tokenizer, adapted = AutoTokenizer.from_pretrained(base), adapted.eval()
    total, count = 0.0, 0
    for example in settings_of(config).suite.examples("a", "test"):
        prompt = tokenizer(example.text)["input_ids"]
        written = [*tokenizer(example.target)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = adapted(input_ids=torch.tensor([[*prompt, *written]])).logits[0].double().log_softmax(-1)
        total += sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(written))
        count += len(written)
    (measured,) = (scores["a"]["perplexity"] for scores in result.metrics.values())
    assert measured == pytest.approx(float(torch.tensor(-total / count).exp()), rel=1e-4)

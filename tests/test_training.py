from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, Logger
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from regmean_lab.config.groups import ModelConfig, TrainerConfig, TrainingConfig
from regmean_lab.evaluation.scores import load_module
from regmean_lab.metrics.metrics import score
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.training.train import describe, find_or_train, train_model
from regmean_lab.zoo import Zoo, member_address

TRAINING = TrainingConfig(learning_rate=3e-3, epochs=2, batch_size=16, max_length=32)
TRAINER = TrainerConfig(accelerator="cpu", progress_bar=False)


@pytest.fixture
def checkpoint(pico_cache: Path) -> Checkpoint:
    return find_checkpoint(ModelConfig("pico_bert", "pico:bert"), pico_cache)


@pytest.fixture
def suite(tmp_path: Path, write_emotions: Callable[[Path], Path]) -> EmotionSuite:
    return EmotionSuite(write_emotions(tmp_path), EmotionSettings(out_of_domain=["emoint"]))


class Trains:
    """Trains into a new folder every time."""

    def __init__(self, checkpoint: Checkpoint, suite: EmotionSuite, root: Path) -> None:
        self.checkpoint, self.suite, self.root, self.count = checkpoint, suite, root, 0

    def __call__(
        self, corpora: tuple[str, ...] = ("tec",), seed: int = 1, **changes: Any
    ) -> tuple[Path, dict[str, Any]]:
        self.count += 1
        folder = self.root / f"trained {self.count}"
        checkpoint = replace(self.checkpoint, dropout=changes.pop("dropout", None))
        training = replace(TRAINING, **changes)
        return folder, train_model(folder, checkpoint, self.suite, corpora, training, TRAINER, seed)

    def scores(self, folder: Path, corpus: str = "tec") -> dict[str, float]:
        """Scores of a trained folder on dev, by a plain loop."""
        task = self.suite.task(corpus)
        module = load_module(folder, task)
        tokenizer, labels = self.checkpoint.tokenizer(), []
        logits = []
        for example in self.suite.examples(corpus, "dev"):
            with torch.no_grad():
                logits.append(module(dict(tokenizer(example.text, return_tensors="pt"))))
            labels.append(example.label)
        return score(task, torch.cat(logits), torch.tensor(labels))


@pytest.fixture
def train(checkpoint: Checkpoint, suite: EmotionSuite, tmp_path: Path) -> Trains:
    return Trains(checkpoint, suite, tmp_path)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("selection", ["best", "last"])
def test_scores_are_those_of_the_weights_that_are_kept(train: Trains, selection: str) -> None:
    folder, record = train(selection=selection, epochs=3)
    assert record["scores"] == pytest.approx(train.scores(folder), abs=1e-3)
    assert record["key_score"] == "macro_f1"
    assert record["epoch"] == 2 if selection == "last" else record["epoch"] in (0, 1, 2)
    assert record["steps"] == 9
    assert record["examples"] == 48
    assert record["seconds"] > 0
    assert "torch" in record["versions"]


def test_a_folder_is_one_of_hugging_face(train: Trains) -> None:
    folder, _ = train(epochs=1)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label[0] == "joy"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}


def test_the_same_seed_gives_the_same_weights(train: Trains) -> None:
    first, _ = train(seed=4)
    torch.rand(3)  # whatever happened before
    again, _ = train(seed=4)
    other, _ = train(seed=5)
    assert same(first, again)
    assert not same(first, other)


def test_dropout_works_in_training(train: Trains) -> None:
    """Models come in evaluation mode from `from_pretrained`, and Lightning would leave them there."""
    without, _ = train(dropout=0.0, epochs=1)
    half, _ = train(dropout=0.5, epochs=1)
    assert not same(without, half)


def test_the_loss_can_be_weighted_by_square_roots_of_shares(train: Trains, suite: EmotionSuite) -> None:
    """The same seed then gives other weights, and the address in the zoo is another one."""
    (plain, _), (weighted, _) = train(epochs=1), train(epochs=1, reweight="sqrt")
    assert not same(plain, weighted)
    describe_one = partial(describe, train.checkpoint, suite, ("tec",), seed=1)
    assert "reweight" not in describe_one(training=TRAINING)["training"]
    assert describe_one(training=replace(TRAINING, reweight="sqrt"))["training"]["reweight"] == "sqrt"


def test_gradients_are_clipped(train: Trains) -> None:
    """Adam's step does not depend on the gradient's scale, except through its epsilon: far below it steps shrink."""
    free, _ = train(epochs=1, gradient_clip=0.0)
    clipped, _ = train(epochs=1, gradient_clip=1e-12)
    start, _ = train(epochs=1, learning_rate=1e-30)
    name = "bert.encoder.layer.0.output.dense.weight"
    moved = [float((weights(folder)[name] - weights(start)[name]).abs().max()) for folder in (free, clipped)]
    assert moved[1] < 0.01 * moved[0]


def test_training_counts_steps_if_told_to(train: Trains) -> None:
    _, record = train(steps=5, eval_steps=2, epochs=1)
    assert record["steps"] == 5
    assert set(record["scores"]) == {"macro_f1", "accuracy"}


@pytest.mark.parametrize("selection", ["best", "last"])
def test_training_that_ends_before_its_first_evaluation_is_scored(train: Trains, selection: str) -> None:
    """There are three steps in an epoch."""
    folder, record = train(steps=2, selection=selection)
    assert record["steps"] == 2
    assert record["scores"] == pytest.approx(train.scores(folder), abs=1e-3)


def test_several_corpora_are_trained_on_together(train: Trains) -> None:
    folder, record = train(("tec", "isear"))
    assert record["examples"] == 96
    means = [train.scores(folder, corpus)["macro_f1"] for corpus in ("tec", "isear")]
    assert record["scores"]["macro_f1"] == pytest.approx(sum(means) / 2, abs=1e-3)


@pytest.mark.filterwarnings("ignore:.*invalid value.*")
def test_training_that_diverges_is_told(train: Trains) -> None:
    with pytest.raises(ModelError, match=r"training on tec diverged: NaN .* lower training\.learning_rate"):
        train(learning_rate=1e38, warmup=0.0, epochs=3, selection="last", weight_decay=0.1)


class TestDescription:
    @pytest.fixture
    def address(self, checkpoint: Checkpoint, suite: EmotionSuite) -> Callable[..., str]:
        def of(**changes: Any) -> str:
            given: dict[str, Any] = {
                "checkpoint": checkpoint,
                "suite": suite,
                "corpora": ["tec"],
                "training": TRAINING,
                "seed": 1,
                **changes,
            }
            return member_address(describe(**given))

        return of

    @pytest.mark.parametrize(
        "changes",
        [
            {"learning_rate": 1e-4},
            {"weight_decay": 0.1},
            {"epochs": 3},
            {"steps": 9},
            {"eval_steps": 2},
            {"batch_size": 8},
            {"max_length": 16},
            {"schedule": "linear"},
            {"warmup": 0.1},
            {"gradient_clip": 0.5},
            {"selection": "last"},
            {"precision": "bf16-mixed"},
        ],
    )
    def test_changes_with_what_changes_the_weights(self, address: Callable[..., str], changes: dict[str, Any]) -> None:
        assert address(training=replace(TRAINING, **changes)) != address()

    def test_changes_with_model_seed_and_corpora(self, address: Callable[..., str], checkpoint: Checkpoint) -> None:
        addresses = [
            address(),
            address(seed=2),
            address(corpora=["isear"]),
            address(corpora=["tec", "isear"]),
            address(corpora=["isear", "tec"]),
            address(checkpoint=replace(checkpoint, fingerprint="other")),
            address(checkpoint=replace(checkpoint, dropout=0.2)),
        ]
        assert len(set(addresses)) == len(addresses)

    def test_does_not_change_with_the_size_of_evaluation_batches(self, address: Callable[..., str]) -> None:
        assert address(training=replace(TRAINING, eval_batch_size=7)) == address()

    def test_does_not_change_with_where_the_model_lies(
        self, address: Callable[..., str], checkpoint: Checkpoint
    ) -> None:
        assert address(checkpoint=replace(checkpoint, source="/elsewhere")) == address()

    @pytest.mark.parametrize("split", ["train", "dev"])
    def test_changes_with_the_data(
        self, address: Callable[..., str], checkpoint: Checkpoint, suite: EmotionSuite, split: str
    ) -> None:
        before = address()
        path = suite.folder / "tec" / f"{split}.jsonl"
        path.write_text(path.read_text().replace("river", "brook"))
        assert address(suite=EmotionSuite(suite.data_dir, suite.settings)) != before


def test_a_member_is_trained_once_and_logged(checkpoint: Checkpoint, suite: EmotionSuite, tmp_path: Path) -> None:
    opened: list[tuple[Any, ...]] = []

    @contextmanager
    def open_logs(*arguments: Any) -> Iterator[list[Logger]]:
        opened.append(arguments)
        yield [CSVLogger(tmp_path / "log", name="", version="")]

    def ask() -> tuple[Any, bool]:
        return find_or_train(Zoo(tmp_path / "zoo"), checkpoint, suite, ["tec"], TRAINING, TRAINER, 1, open_logs)

    (entry, trained), (again, trained_again) = ask(), ask()
    assert (trained, trained_again) == (True, False)
    assert entry == again
    assert entry.name.startswith("emotion-tec-pico_bert-seed1-")
    assert entry.verify() == []
    assert member_address(describe(checkpoint, suite, ["tec"], TRAINING, 1)) == entry.address
    assert len(opened) == 1
    assert opened[0][:3] == ("train emotion-tec-pico_bert-seed1", "train", "emotion")
    assert "dev/score" in (tmp_path / "log" / "metrics.csv").read_text()

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel, RandomDataset
from pytorch_lightning.loggers import CSVLogger, Logger
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from regmean_lab.config.groups import LoraConfig, ModelConfig, TrainerConfig, TrainingConfig
from regmean_lab.evaluation.scores import load_module
from regmean_lab.metrics.metrics import score
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.training import snapshots
from regmean_lab.training import train as train_module
from regmean_lab.training.best_weights import epoch_of
from regmean_lab.training.descriptions import describe
from regmean_lab.training.train import find_or_train, train_model, training_trainer
from regmean_lab.training.trainers import EpochProgressBar
from regmean_lab.zoo import Zoo, ZooEntry, member_address

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
        trainer = changes.pop("trainer", TRAINER)
        training = replace(TRAINING, **changes)
        return folder, train_model(folder, checkpoint, self.suite, corpora, training, trainer, seed)

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


def test_the_history_has_the_score_of_each_evaluation(train: Trains) -> None:
    _, record = train(epochs=3, learning_rate=1e-2)
    history = record["history"]
    assert [part["step"] for part in history] == [3, 6, 9]
    scores = [part["score"] for part in history]
    assert record["epoch"] == scores.index(max(scores))
    assert max(scores) == pytest.approx(record["scores"]["macro_f1"])
    _, record = train(steps=4, eval_steps=2)
    assert [(part["step"], "score" in part) for part in record["history"]] == [(2, True), (4, True)]
    _, record = train(epochs=2, selection="last")  # the score after training is none of the history
    assert [(part["step"], "score" in part) for part in record["history"]] == [(3, False), (6, False)]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_history_has_the_mean_loss_of_batches(train: Trains, accumulate: int) -> None:
    """With steps that change nothing, that of a plain loop over all examples: batches are equally large."""
    folder, record = train(dropout=0.0, learning_rate=1e-12, epochs=2, accumulate=accumulate)
    module = load_module(folder, train.suite.task("tec"))
    tokenizer, losses = train.checkpoint.tokenizer(), []
    for example in train.suite.examples("tec", "train"):
        with torch.no_grad():
            logits = module(dict(tokenizer(example.text, return_tensors="pt")))
        labels = torch.tensor([example.label], dtype=torch.float32)
        known = labels >= 0  # those that the corpus annotates, as many for each example
        losses.append(float(functional.binary_cross_entropy_with_logits(logits[known], labels[known])))
    assert [part["loss"] for part in record["history"]] == pytest.approx([sum(losses) / len(losses)] * 2, rel=1e-4)


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


def test_adapters_compute_activations_again_to_the_same_weights(train: Trains) -> None:
    kept, record = train(epochs=2, lora=LoraConfig(rank=2))
    again, _ = train(epochs=2, lora=LoraConfig(rank=2), gradient_checkpointing=True)
    for name, value in weights(kept).items():
        torch.testing.assert_close(weights(again)[name], value, rtol=1e-4, atol=1e-5)
    assert record["scores"] == pytest.approx(train.scores(kept), abs=1e-3)  # of the best epoch, with the adapter merged


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
            {"lora": LoraConfig(rank=2)},
        ],
    )
    def test_changes_with_what_changes_the_weights(self, address: Callable[..., str], changes: dict[str, Any]) -> None:
        assert address(training=replace(TRAINING, **changes)) != address()

    def test_changes_with_each_setting_of_adapters(self, address: Callable[..., str]) -> None:
        one = partial(LoraConfig, rank=2)
        settings = [LoraConfig(), one(), one(alpha=8), one(dropout=0.1), one(target_modules=["query"]), one(rank=3)]
        assert len({address(training=replace(TRAINING, lora=lora)) for lora in settings}) == len(settings)
        assert address(training=replace(TRAINING, lora=LoraConfig())) == address()

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


class Killed(Exception):
    """What stands for the end of a process."""


class Watch(pl.Callback):
    """Writes down the epoch and the number of each batch, and ends training after a batch or at an epoch's end."""

    def __init__(self, end: tuple[int, int | None] | None = None) -> None:
        self.end, self.batches = end, list[tuple[int, int]]()

    def on_train_batch_end(self, trainer: pl.Trainer, one: Any, two: Any, three: Any, batch_idx: int) -> None:
        self.batches.append((epoch_of(trainer), batch_idx))
        if self.batches[-1] == self.end:
            raise Killed

    def on_train_epoch_end(self, *_: Any) -> None:
        if self.end == (self.batches[-1][0], None):
            raise Killed


GoesOn = Callable[..., tuple[ZooEntry, list[tuple[int, int]]]]


@pytest.fixture
def go_on(checkpoint: Checkpoint, suite: EmotionSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GoesOn:
    """Finds or trains a member with dropout; gives it, and the epoch and number of each batch of this training."""
    monkeypatch.setattr(snapshots, "SECONDS", 0.0)

    def run(
        training: TrainingConfig, end: tuple[int, int | None] | None = None, trainer: TrainerConfig = TRAINER
    ) -> tuple[ZooEntry, list[tuple[int, int]]]:
        watch = Watch(end)

        def with_watch(one: Any, two: Any, callbacks: Any, *rest: Any, **others: Any) -> pl.Trainer:
            return training_trainer(one, two, [*callbacks, watch], *rest, **others)

        monkeypatch.setattr(train_module, "training_trainer", with_watch)
        logs = partial(nullcontext, [])
        start = replace(checkpoint, dropout=0.2)
        entry, _ = find_or_train(Zoo(tmp_path / "zoo"), start, suite, ("tec",), training, trainer, 1, lambda *_: logs())
        return entry, watch.batches

    return run


BATCHES = [(epoch, batch) for epoch in range(4) for batch in range(3)]


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        # After a step: the next one follows. After the last of an epoch: it is done again, as nothing was written.
        ({"epochs": 4, "selection": "last"}, [((1, 0), (1, 1)), ((1, 2), (1, 2)), ((2, None), (3, 0))]),
        ({"epochs": 4}, [((1, 0), (1, 1)), ((2, None), (3, 0))]),
        # Two batches make a step, and so does the last one alone.
        ({"epochs": 4, "selection": "last", "accumulate": 2}, [((1, 0), (1, 0)), ((1, 1), (1, 2)), ((2, 0), (2, 0))]),
        ({"steps": 11}, [((1, 0), (1, 1)), ((1, None), (2, 0)), ((2, 1), (2, 2))]),
        ({"steps": 11, "selection": "last"}, [((0, None), (1, 0)), ((2, 0), (2, 1))]),
        # After steps 2, 4 … the model is evaluated before the next one: what follows is done again.
        ({"steps": 11, "eval_steps": 2, "patience": 50}, [((1, 0), (1, 0)), ((1, 1), (1, 2)), ((2, 0), (2, 1))]),
        ({"epochs": 4, "selection": "last", "gradient_checkpointing": True}, [((1, 1), (1, 2))]),
        (
            {"epochs": 4, "selection": "last", "lora": LoraConfig(rank=2, dropout=0.2)},
            [((1, 0), (1, 1)), ((2, None), (3, 0))],
        ),
    ],
    ids=["epochs", "best", "accumulate", "steps", "last of steps", "eval_steps", "gradient_checkpointing", "lora"],
)
def test_a_killed_training_goes_on_to_the_same_weights(
    changes: dict[str, Any], ends: Any, train: Trains, go_on: GoesOn, tmp_path: Path
) -> None:
    """Killed within epochs and at their ends; with dropout, to the last bit."""
    whole, expected = train(dropout=0.2, **changes)
    training = replace(TRAINING, **changes)
    for end, _ in ends:
        with pytest.raises(Killed):
            go_on(training, end)
    entry, batches = go_on(training)
    next_one = BATCHES.index(ends[-1][1])
    assert batches == BATCHES[next_one:][: len(batches)] and len(batches) >= 2  # what came before is not done again
    assert same(entry.path, whole)
    record = json.loads((entry.path / "training.json").read_text())
    assert {key: record[key] for key in ("scores", "epoch", "steps", "history")} == {
        key: expected[key] for key in ("scores", "epoch", "steps", "history")
    }
    assert not list((tmp_path / "zoo" / ".training").iterdir())


def test_a_killed_training_with_loading_processes_goes_on_to_the_same_weights(train: Trains, go_on: GoesOn) -> None:
    trainer, training = replace(TRAINER, workers=1), replace(TRAINING, epochs=3, selection="last")
    whole, _ = train(dropout=0.2, epochs=3, selection="last", trainer=trainer)
    for end in ((0, None), (1, 0)):
        with pytest.raises(Killed):
            go_on(training, end, trainer)
    entry, batches = go_on(training, None, trainer)
    assert batches == BATCHES[4:9] and same(entry.path, whole)


class Trap:
    """Of a pickle that does something when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_snapshot_that_cannot_be_read_is_told_and_nothing_of_it_runs(
    train: Trains,
    go_on: GoesOn,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, _ = train(dropout=0.2)
    with pytest.raises(Killed):
        go_on(TRAINING, (1, 0))
    (snapshot,) = (tmp_path / "zoo" / ".training").glob("*/last.ckpt")
    for content in (b"half", snapshot.read_bytes()[:-500], pickle.dumps({"epoch": Trap(tmp_path / "sprung")})):
        snapshot.write_bytes(content)
        with pytest.raises(Killed):
            go_on(TRAINING, (0, 0))
        assert snapshot.stat().st_size > 500  # another one
    assert caplog.text.count("cannot be read") == 3 and not (tmp_path / "sprung").exists()
    snapshot.write_bytes(b"")
    entry, batches = go_on(TRAINING)
    assert batches == BATCHES[:6] and same(entry.path, whole)


def test_what_a_killed_training_left_is_pruned(go_on: GoesOn, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        go_on(TRAINING, (1, 0))
    zoo = Zoo(tmp_path / "zoo")
    (left,) = (tmp_path / "zoo" / ".training").iterdir()
    assert zoo.prune(dry_run=True).temporary == [left.name] and left.is_dir()
    assert zoo.prune().temporary == [left.name] and not left.exists()


def test_gradients_of_several_batches_make_one_step(train: Trains) -> None:
    """As one batch of all their examples, with the rounding of other sums."""
    several, record = train(dropout=0.0, epochs=2, accumulate=3, selection="last")
    one, expected = train(dropout=0.0, epochs=2, batch_size=48, selection="last")
    other, _ = train(dropout=0.0, epochs=2, selection="last")
    assert record["steps"] == expected["steps"] == 2
    for name, tensor in weights(several).items():
        torch.testing.assert_close(tensor, weights(one)[name], rtol=1e-3, atol=1e-5)
    assert max(float((tensor - weights(other)[name]).abs().max()) for name, tensor in weights(several).items()) > 1e-3


def test_the_last_batches_of_an_epoch_make_a_step_too(train: Trains) -> None:
    assert train(epochs=2, accumulate=2)[1]["steps"] == 4
    assert train(steps=3, accumulate=2, eval_steps=1)[1]["steps"] == 3


def test_activations_are_computed_again_to_the_same_weights(train: Trains, suite: EmotionSuite) -> None:
    kept, _ = train(dropout=0.2)
    again, _ = train(dropout=0.2, gradient_checkpointing=True)
    assert same(kept, again)
    assert (kept / "config.json").read_text() == (again / "config.json").read_text()
    described = [
        describe(train.checkpoint, suite, ("tec",), replace(TRAINING, **more), 1)
        for more in ({}, {"gradient_checkpointing": True}, {"accumulate": 2}, {"patience": 3})
    ]
    assert [member_address(one) == member_address(described[0]) for one in described] == [True, True, False, False]


def test_training_ends_when_scores_on_dev_get_no_better(train: Trains) -> None:
    """With a step that changes nothing the first score stays the best."""
    _, record = train(learning_rate=1e-12, epochs=9, patience=2)
    assert (record["epoch"], record["steps"]) == (0, 3 * 3)
    assert TrainingConfig(patience=2, selection="last").problems() == [
        "patience: needs scores on dev, which selection=last does without; expected null"
    ]
    assert TrainingConfig(patience=0, accumulate=0).problems() == [
        "accumulate: expected at least 1, got 0",
        "patience: expected at least 1 or null, got 0",
    ]


def test_a_training_that_was_killed_at_its_very_end_is_not_repeated(
    train: Trains, go_on: GoesOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[dict[str, Any], list[tuple[int, int]]]] = [
        ({"epochs": 2}, []),
        ({"steps": 6, "selection": "last"}, []),
        # That it has to stop is found out again, by the scores after its last epoch.
        ({"epochs": 9, "patience": 2, "learning_rate": 1e-12}, [(2, 2)]),
    ]
    for changes, repeated in cases:
        whole, expected = train(dropout=0.2, **changes)
        with monkeypatch.context() as patch:
            patch.setattr(train_module, "versions", lambda: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                go_on(replace(TRAINING, **changes))
        entry, batches = go_on(replace(TRAINING, **changes))
        assert batches == repeated and same(entry.path, whole)
        record = json.loads((entry.path / "training.json").read_text())
        assert {key: record[key] for key in ("scores", "epoch", "steps")} == {
            key: expected[key] for key in ("scores", "epoch", "steps")
        }


def test_progress_bars_count_epochs_from_one(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[EpochProgressBar()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(BoringModel(), torch.utils.data.DataLoader(RandomDataset(32, 4)))
    told = capsys.readouterr().out
    assert "Epoch 2/2" in told and "Epoch 0" not in told and "Epoch 1/1" not in told

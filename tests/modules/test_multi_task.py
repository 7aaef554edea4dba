from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

from regmean_lab.config.groups import ModelConfig, TrainerConfig, TrainingConfig
from regmean_lab.evaluation.scores import load_module
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint, head_parameters
from regmean_lab.modules import Optimization
from regmean_lab.modules.multi_task import MultiTaskModule, load_part
from regmean_lab.modules.sequence_classification import SequenceClassificationModule
from regmean_lab.suites import Example, Split, Suite, Task
from regmean_lab.suites.batch_sampling import LengthGroupedBatchSampler
from regmean_lab.suites.multi_task_data import InterleavedBatchSampler, MultiTaskDataModule
from regmean_lab.training.descriptions import describe
from regmean_lab.training.train import train_model
from regmean_lab.zoo import ZooEntry

ARCHITECTURES = ("bert", "roberta", "distilbert", "deberta_v2")
TASKS = {
    "topic": Task("single_label", ("river", "film", "phone"), "accuracy"),
    "mood": Task("single_label", ("bad", "good"), "matthews"),
    "rating": Task("regression", ("rating",), "pearson"),
}
SIZES = {"topic": 41, "mood": 22, "rating": 13}
WORDS = ("the", "river", "film", "phone", "rose", "happy", "terrible", "and", "bad", "great", "music", "week")
TRAINER = TrainerConfig(accelerator="cpu", progress_bar=False)


class Toy(Suite):
    """Three tasks on random words; a label is the first word's number in some way."""

    name = "toy"
    reference_order = tuple(TASKS)
    own_heads = True

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        return ()

    def task(self, corpus: str) -> Task:
        return TASKS[corpus]

    def missing(self, corpora: Sequence[str]) -> list[str]:
        return []

    def examples(self, corpus: str, split: Split) -> list[Example]:
        generator = random.Random(f"{corpus} {split}")
        examples = []
        for _ in range(SIZES[corpus] if split == "train" else 17):
            words = generator.choices(WORDS, k=generator.randint(1, 9))
            number = WORDS.index(words[0])
            label = {"topic": number % 3, "mood": number % 2, "rating": number / 3}[corpus]
            examples.append(Example(" ".join(words), label, "a week" if corpus == "mood" else None))
        return examples

    def out_of_domain_examples(self, corpus: str) -> list[Example]:
        return []

    def fingerprint(self, corpus: str) -> str:
        return corpus


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("data"), None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def checkpoint_of(architecture: str, cache: Path, dropout: float | None = 0.0) -> Checkpoint:
    return find_checkpoint(ModelConfig(f"pico_{architecture}", f"pico:{architecture}", dropout=dropout), cache)


def data_module(suite: Toy, checkpoint: Checkpoint, seed: int = 5) -> MultiTaskDataModule:
    return MultiTaskDataModule(
        suite,
        checkpoint.tokenizer(),
        batch_size=4,
        eval_batch_size=8,
        max_length=32,
        seed=seed,
        train_corpora=list(TASKS),
    )


def new_module(checkpoint: Checkpoint, optimization: Optimization | None = None) -> MultiTaskModule:
    torch.manual_seed(3)
    return MultiTaskModule.from_checkpoint(checkpoint, TASKS, optimization)


def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.eval()(**{name: value for name, value in batch.items() if name != "labels"}).logits
        return result


def reference_loss(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    if name == "rating":
        return ((logits[:, 0] - labels) ** 2).mean()
    return functional.cross_entropy(logits, labels)


def reference_score(name: str, logits: Tensor, labels: Tensor) -> float:
    """Key scores from their definitions."""
    if name == "rating":
        return 100 * float(torch.corrcoef(torch.stack([logits[:, 0], labels]))[0, 1])
    predicted = logits.argmax(1)
    if name == "topic":
        return 100 * float((predicted == labels).float().mean())
    # The correlation of two binary variables; 0 if one of them is constant.
    value = float(torch.corrcoef(torch.stack([predicted.float(), labels.float()]))[0, 1])
    return 0.0 if value != value else 100 * value


def test_an_epoch_has_every_example_once_in_batches_of_one_task() -> None:
    lengths = ([3] * 41, [5] * 22, [7] * 13)

    def sampler(seed: int) -> InterleavedBatchSampler:
        return InterleavedBatchSampler([LengthGroupedBatchSampler(part, 4, seed) for part in lengths], seed)

    def task(index: int) -> int:
        return 0 if index < 41 else 1 if index < 63 else 2

    batches = list(sampler(1))
    assert len(batches) == len(sampler(1)) == 11 + 6 + 4
    assert sorted(index for batch in batches for index in batch) == list(range(76))
    assert all(len({task(index) for index in batch}) == 1 for batch in batches)
    assert Counter(task(batch[0]) for batch in batches) == {0: 11, 1: 6, 2: 4}
    # The tasks' batches are mixed, in another order with each epoch and seed.
    order = [task(batch[0]) for batch in batches]
    assert order != sorted(order)
    later = sampler(1)
    later.set_epoch(1)
    assert list(sampler(1)) == batches
    assert list(later) != batches
    assert list(sampler(2)) != batches


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_training_name_their_task(suite: Toy, cache: Path, workers: int) -> None:
    data = data_module(suite, checkpoint_of("bert", cache))
    data.num_workers = workers
    seen: Counter[int] = Counter()
    for number, batch in data.train_dataloader():
        assert batch["labels"].dtype == (torch.float32 if number == 2 else torch.int64)
        seen[number] += len(batch["labels"])
    assert seen == dict(enumerate(SIZES.values()))


def test_training_goes_on_with_the_batches_that_remain(suite: Toy, cache: Path) -> None:
    checkpoint = checkpoint_of("bert", cache)
    whole, later = data_module(suite, checkpoint), data_module(suite, checkpoint)
    later.go_on_from(3, 2)
    first, second = whole.train_dataloader(), later.train_dataloader()
    for epoch in (3, 4):
        for loader in (first, second):
            loader.batch_sampler.sampler.set_epoch(epoch)  # as Lightning does, which counts all batches as well
        assert len(second) == len(first)
        expected, found = list(first), list(second)
        expected = expected[2:] if epoch == 3 else expected
        assert [number for number, _ in found] == [number for number, _ in expected] and len(found) > 3
        for (_, batch), (_, other) in zip(found, expected, strict=True):
            assert all(torch.equal(batch[name], other[name]) for name in other)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_share_the_encoder_and_nothing_else(cache: Path, architecture: str) -> None:
    module = new_module(checkpoint_of(architecture, cache))
    models = [part.model for part in module._parts]
    assert all(model.base_model is models[0].base_model for model in models)
    heads = [{id(model.get_parameter(name)) for name in head_parameters(model)} for model in models]
    assert all(heads)
    assert not (heads[0] & heads[1] | heads[0] & heads[2] | heads[1] & heads[2])
    encoder = {id(parameter) for parameter in models[0].base_model.parameters()}
    assert {id(parameter) for parameter in module.parameters()} == encoder.union(*heads)
    assert [model.config.num_labels for model in models] == [3, 2, 1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_is_that_of_a_plain_loop(
    suite: Toy, cache: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not AdamW, which turns the rounding errors of gradients that are zero into steps of full size.
    monkeypatch.setattr(
        Optimization, "optimizer", lambda _, parameters, **settings: torch.optim.SGD(parameters, 0.1, momentum=0.9)
    )
    checkpoint = checkpoint_of(architecture, cache)
    module = new_module(checkpoint, Optimization(0.1, schedule="constant", warmup=0.0)).train()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data_module(suite, checkpoint))

    # The same with a whole model for each task; after every step all get the first one's encoder.
    torch.manual_seed(3)
    models = {name: SequenceClassificationModule.new_model(checkpoint, task) for name, task in TASKS.items()}
    encoders = {name: list(model.base_model.parameters()) for name, model in models.items()}
    common = encoders["topic"]
    heads = [model.get_parameter(name) for model in models.values() for name in head_parameters(model)]
    optimizer = torch.optim.SGD([*common, *heads], 0.1, momentum=0.9)
    loader = data_module(suite, checkpoint).train_dataloader()
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for number, batch in loader:
            name = list(TASKS)[number]
            for model in models.values():
                model.train().zero_grad()
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            reference_loss(name, models[name](**inputs).logits, batch["labels"]).backward()
            for parameter, own in zip(common, encoders[name], strict=True):
                parameter.grad = own.grad
            torch.nn.utils.clip_grad_norm_([*common, *heads], 1.0)
            optimizer.step()
            with torch.no_grad():
                for copies in zip(*encoders.values(), strict=True):
                    for copy in copies[1:]:
                        copy.copy_(copies[0])
    assert trainer.global_step == 2 * len(loader)
    untrained = new_module(checkpoint)._parts
    for model, part, start in zip(models.values(), module._parts, untrained, strict=True):
        expected, before = model.state_dict(), start.model.state_dict()
        for key, value in part.model.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
        encoder = [key for key in expected if key not in head_parameters(model)]
        for keys in (head_parameters(model), encoder):
            assert any((before[key] - expected[key]).abs().max() > 0.01 for key in keys)


def test_a_batch_leaves_other_heads_alone(suite: Toy, cache: Path) -> None:
    module = new_module(checkpoint_of("distilbert", cache))
    number, batch = next(iter(data_module(suite, checkpoint_of("distilbert", cache)).train_dataloader()))
    module._parts[number].batch_loss(batch).backward()
    for other, part in enumerate(module._parts):
        gradients = [part.model.get_parameter(name).grad for name in head_parameters(part.model)]
        assert all((gradient is None) == (other != number) for gradient in gradients)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_models_are_loaded_one_by_one(suite: Toy, cache: Path, tmp_path: Path, architecture: str) -> None:
    checkpoint = checkpoint_of(architecture, cache)
    module = new_module(checkpoint).eval()
    module.save(tmp_path)
    loaders = data_module(suite, checkpoint).val_dataloader()
    for (name, task), part, loader in zip(TASKS.items(), module._parts, loaders, strict=True):
        loaded = load_part(tmp_path, name, task)
        assert (loaded.model.config.id2label, loaded.model.config.problem_type) == (
            dict(enumerate(task.labels)),
            "regression" if name == "rating" else "single_label_classification",
        )
        assert not loaded.model.training
        for batch in loader:
            torch.testing.assert_close(logits(loaded.model, batch), logits(part.model, batch), rtol=0, atol=0)


def test_the_folder_is_the_first_task_model_with_all_heads_beside_it(cache: Path, tmp_path: Path) -> None:
    module = new_module(checkpoint_of("roberta", cache)).eval()
    module.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert list(model.config.id2label.values()) == ["river", "film", "phone"]
    for key, value in module._parts[0].model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    with safe_open(tmp_path / "heads.safetensors", framework="pt") as file:
        names = {f"{name}/{key}" for name in TASKS for key in head_parameters(model)}
        assert set(file.keys()) == names
        assert file.get_slice("mood/classifier.out_proj.weight").get_shape() == [2, 16]
        assert list(json.loads(file.metadata()["tasks"])) == list(TASKS)


def test_the_zoo_verifies_the_heads(cache: Path, tmp_path: Path) -> None:
    module = new_module(checkpoint_of("bert", cache))
    module.save(tmp_path)
    assert not [problem for problem in ZooEntry(tmp_path).verify() if "heads" in problem]
    with torch.no_grad():
        module._parts[2].model.get_parameter("classifier.bias").fill_(float("nan"))
    module.save(tmp_path)
    (problem,) = [problem for problem in ZooEntry(tmp_path).verify() if "heads" in problem]
    assert problem == "heads.safetensors: tensor 'rating/classifier.bias' holds values that are not finite"


@pytest.mark.parametrize("selection", ["best", "last"])
def test_the_trained_model_has_the_scores_that_are_recorded(
    suite: Toy, cache: Path, tmp_path: Path, selection: str
) -> None:
    """The score on dev is the mean of the tasks' key scores, and with ``best`` the highest of all epochs."""
    checkpoint = checkpoint_of("bert", cache)
    training = TrainingConfig(learning_rate=0.02, epochs=4, batch_size=4, selection=selection)
    record = train_model(tmp_path, checkpoint, suite, list(TASKS), training, TRAINER, seed=1)
    assert record["examples"] == 76
    assert record["key_score"] == "mean_key_score"
    expected = []
    for (name, task), loader in zip(TASKS.items(), data_module(suite, checkpoint).val_dataloader(), strict=True):
        model = load_part(tmp_path, name, task).model
        outputs = torch.cat([logits(model, batch) for batch in loader])
        labels = torch.cat([batch["labels"] for batch in loader])
        expected.append(reference_score(name, outputs, labels))
        assert record["scores"][f"{name}/{task.key_score}"] == pytest.approx(expected[-1], abs=0.01)
    assert record["scores"]["mean_key_score"] == pytest.approx(sum(expected) / 3, abs=0.01)
    assert record["epoch"] in ([3] if selection == "last" else range(4))


def test_one_task_is_trained_as_ever(suite: Toy, cache: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("bert", cache)
    record = train_model(tmp_path, checkpoint, suite, ["mood"], TrainingConfig(epochs=1), TRAINER, seed=1)
    assert record["key_score"] == "matthews"
    assert not (tmp_path / "heads.safetensors").exists()
    assert load_module(tmp_path, TASKS["mood"]).model.config.num_labels == 2


def test_a_joint_model_is_described_by_all_its_tasks(suite: Toy, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_of("bert", cache)
    training = TrainingConfig()
    single = describe(checkpoint, suite, ["mood"], training, 1)
    assert single["task"]["labels"] == ("bad", "good")
    joint = describe(checkpoint, suite, ["mood", "topic"], training, 1)
    assert [task["labels"] for task in joint["task"]] == [("bad", "good"), ("river", "film", "phone")]
    monkeypatch.setattr(Toy, "own_heads", False)
    assert describe(checkpoint, suite, ["mood", "topic"], training, 1)["task"] == single["task"]

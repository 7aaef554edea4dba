from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from regmean_lab.suites.base import DataError, Example, Split, Suite, Task
from regmean_lab.suites.data_module import CorpusDataModule, example_order
from regmean_lab.suites.evaluations import Evaluation, evaluations_for

SIZES = {"train": 37, "dev": 11, "test": 7}


class Letters(Suite):
    """The label of an example is its number (in "four", from 100 on), its text one to eight letters."""

    name = "letters"
    reference_order = ("one", "two", "three")

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        return tuple(corpus for corpus in self.reference_order if corpus not in merged)

    def task(self, corpus: str) -> Task:
        if corpus == "three":
            return Task("regression", ("score",), "pearson")
        return Task("single_label", tuple(map(str, range(40))), "macro_f1")

    def missing(self, corpora: Sequence[str]) -> list[str]:
        return []

    def examples(self, corpus: str, split: Split) -> list[Example]:
        if corpus == "two" and split == "dev":
            return []
        first = 100 if corpus == "four" else 0
        return [Example(" ".join("abcdefgh"[: 1 + number % 8]), first + number) for number in range(SIZES[split])]

    def out_of_domain_examples(self, corpus: str) -> list[Example]:
        return self.examples(corpus, "test")[:5]

    def fingerprint(self, corpus: str) -> str:
        return corpus


class Recorder(pl.LightningModule):
    """A model of one parameter that writes down the labels of each batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: dict[int, list[list[int]]] = {}
        self.validated: list[int] = []
        self.tested: dict[int, list[float]] = {}

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.epochs.setdefault(self.current_epoch, []).append(batch["labels"].tolist())
        return self.weight**2

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.validated += batch["labels"].tolist()

    def test_step(self, batch: dict[str, Tensor], _: int, dataloader_idx: int = 0) -> None:
        self.tested.setdefault(dataloader_idx, []).extend(batch["labels"].tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def suite() -> Letters:
    return Letters(Path(), None)


def module(suite: Suite, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> CorpusDataModule:
    defaults = {"batch_size": 4, "eval_batch_size": 3, "max_length": 16, "seed": 5}
    return CorpusDataModule(suite, tokenizer, **{**defaults, **settings})


def trainer(folder: Path, epochs: int, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def labels(loader: Any) -> list[int]:
    return [label for batch in loader for label in batch["labels"].tolist()]


def test_trainer_sees_every_example_once_an_epoch_in_another_order(
    suite: Letters, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = Recorder()
    trainer(tmp_path, 3, enable_checkpointing=False).fit(model, module(suite, tokenizer, train_corpora=["one"]))
    assert list(model.epochs) == [0, 1, 2]
    for batches in model.epochs.values():
        assert sorted(label for batch in batches for label in batch) == list(range(37))
    assert len({str(batches) for batches in model.epochs.values()}) == 3
    assert sorted(model.validated) == sorted(list(range(11)) * 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_training_continues_the_order(
    suite: Letters, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, workers: int
) -> None:
    def data() -> CorpusDataModule:
        return module(suite, tokenizer, train_corpora=["one"], num_workers=workers)

    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, 3, enable_checkpointing=False).fit(whole, data())
    start = trainer(tmp_path, 1)
    start.fit(first, data())
    start.save_checkpoint(tmp_path / "first.ckpt")
    trainer(tmp_path, 3, enable_checkpointing=False).fit(second, data(), ckpt_path=tmp_path / "first.ckpt")
    assert {**first.epochs, **second.epochs} == whole.epochs
    assert list(second.epochs) == [1, 2]


def test_sampler_alone_follows_the_epoch_when_resumed(
    suite: Letters, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Without the data module, the sampler hears of the epoch from Lightning only."""

    def loader() -> Any:
        return module(suite, tokenizer, train_corpora=["one"]).train_dataloader()

    whole, second = Recorder(), Recorder()
    trainer(tmp_path, 2, enable_checkpointing=False).fit(whole, loader())
    start = trainer(tmp_path, 1)
    start.fit(Recorder(), loader())
    start.save_checkpoint(tmp_path / "first.ckpt")
    trainer(tmp_path, 2, enable_checkpointing=False).fit(second, loader(), ckpt_path=tmp_path / "first.ckpt")
    assert second.epochs == {1: whole.epochs[1]}
    assert whole.epochs[0] != whole.epochs[1]


def test_corpora_that_are_trained_together(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(suite, tokenizer, train_corpora=["one", "four"])
    assert sorted(labels(data.train_dataloader())) == [*range(37), *range(100, 137)]
    assert [sorted(labels(loader)) for loader in data.val_dataloader()] == [[*range(11)], [*range(100, 111)]]


def test_seed_determines_the_order_of_training(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    orders = [
        labels(module(suite, tokenizer, train_corpora=["one"], seed=seed).train_dataloader()) for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_trainer_evaluates_every_corpus_and_order_is_recoverable(
    suite: Letters, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    data = module(suite, tokenizer, evaluations=evaluations_for(suite, ["two", "one"]))
    model = Recorder()
    trainer(tmp_path, 1, enable_checkpointing=False).test(model, data, verbose=False)
    assert {number: len(seen) for number, seen in model.tested.items()} == {0: 7, 1: 7, 2: 5}
    for number, loader in enumerate(data.test_dataloader()):
        order = example_order(loader)
        assert order != sorted(order)
        assert model.tested[number] == order  # an example's label is its number


def test_order_of_another_loader_is_not_known() -> None:
    with pytest.raises(TypeError, match="expected a loader of CorpusDataModule"):
        example_order(torch.utils.data.DataLoader([1, 2], batch_size=2))  # type: ignore[arg-type]


def test_evaluations_are_members_then_out_of_domain_corpora(suite: Letters) -> None:
    evaluations = evaluations_for(suite, ["two", "one"])
    assert [(item.name, item.corpus, item.domain) for item in evaluations] == [
        ("two", "two", "in"),
        ("one", "one", "in"),
        ("three", "three", "out"),
    ]
    assert evaluations[0].examples == suite.examples("two", "test")
    assert evaluations[2].examples == suite.out_of_domain_examples("three")
    assert evaluations[2].task.kind == "regression"


def test_labels_follow_the_task_of_the_evaluation(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    one, three = module(suite, tokenizer, evaluations=evaluations_for(suite, ["one", "two"])).test_dataloader()[1:]
    assert next(iter(one))["labels"].dtype == torch.long
    assert next(iter(three))["labels"].dtype == torch.float32


def test_batches_have_the_sizes_that_were_asked_for(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(suite, tokenizer, train_corpora=["one"], evaluations=evaluations_for(suite, ["one"]))
    assert len(data.train_dataloader()) == 10
    assert [len(loader) for loader in data.val_dataloader()] == [4]
    assert [len(loader) for loader in data.test_dataloader()] == [3, 2, 2]
    assert len(data.statistics_dataloader("one", 20, batch_size=6)) == 4


def test_inputs_are_cut_and_padded_as_asked(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(suite, tokenizer, train_corpora=["one"], max_length=5)
    assert max(batch["input_ids"].shape[1] for batch in data.train_dataloader()) == 5
    data = module(suite, tokenizer, train_corpora=["one"], max_length=5, pad_to_multiple_of=8)
    assert {batch["input_ids"].shape[1] for batch in data.train_dataloader()} == {8}


def test_statistics_use_a_seeded_sample_of_the_training_split(
    suite: Letters, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(suite, tokenizer)
    few, more, again, other = (
        labels(data.statistics_dataloader("one", count, batch_size=4, seed=seed))
        for count, seed in ((8, 1), (20, 1), (8, 1), (8, 2))
    )
    assert few == again
    assert len(set(few)) == 8
    assert set(few) < set(more) < set(range(37))
    assert set(few) != set(other)


@pytest.mark.parametrize("count", [None, 10])
def test_statistics_can_keep_the_order_in_which_examples_were_drawn(
    suite: Letters, tokenizer: PreTrainedTokenizerFast, count: int | None
) -> None:
    generator = random.Random(5)
    keys = [generator.random() for _ in range(37)]
    expected = sorted(range(37), key=keys.__getitem__)[:count]
    loader = module(suite, tokenizer).statistics_dataloader("one", count, batch_size=4, seed=5, drawn_order=True)
    assert labels(loader) == expected
    sizes = [len(batch["labels"]) for batch in loader]
    assert sizes == [4] * (len(expected) // 4) + [len(expected) % 4]


@pytest.mark.parametrize("count", [None, 1000])
def test_statistics_of_the_whole_training_split(
    suite: Letters, tokenizer: PreTrainedTokenizerFast, count: int | None
) -> None:
    loader = module(suite, tokenizer).statistics_dataloader("one", count, batch_size=4)
    assert sorted(labels(loader)) == list(range(37))


def test_worker_processes_bring_the_same_batches(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    (alone,) = module(suite, tokenizer, train_corpora=["one"]).val_dataloader()
    (helped,) = module(suite, tokenizer, train_corpora=["one"], num_workers=1).val_dataloader()
    assert labels(helped) == labels(alone)


def test_nothing_to_train(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="train_corpora is empty"):
        module(suite, tokenizer).train_dataloader()


def test_split_without_examples(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="suite letters: no examples in the dev split of two"):
        module(suite, tokenizer, train_corpora=["two"]).val_dataloader()


def test_evaluation_without_examples(suite: Letters, tokenizer: PreTrainedTokenizerFast) -> None:
    evaluation = Evaluation("one", "one", "in", [], suite.task("one"))
    with pytest.raises(DataError, match="evaluation one: no examples of one"):
        module(suite, tokenizer, evaluations=[evaluation]).test_dataloader()

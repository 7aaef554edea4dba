"""Two processes that train a member and collect its statistics together, as the command has them do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, Logger
from safetensors.torch import load_file

from regmean_lab.callbacks.statistics import collect_for_entry, open_statistics, requests_of
from regmean_lab.config.groups import (
    FisherConfig,
    GradientGramConfig,
    GramConfig,
    LoraConfig,
    ModelConfig,
    StatisticsConfig,
    TrainerConfig,
    TrainingConfig,
)
from regmean_lab.evaluation.scores import load_module
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.statistics import MatrixFile, rank, world_size
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.training import snapshots
from regmean_lab.training import train as train_module
from regmean_lab.training.best_weights import epoch_of
from regmean_lab.training.processes import ProcessError, device_problems, run_together, trainer_devices
from regmean_lab.training.snapshots import Snapshots
from regmean_lab.training.train import find_or_train, training_trainer
from regmean_lab.training.trainers import test_trainer as make_trainer
from regmean_lab.zoo import Zoo, ZooEntry, ZooError

ALONE = TrainerConfig(accelerator="cpu", progress_bar=False)
TWO = replace(ALONE, devices=2)
# 48 training examples: every batch can be halved, so that two processes take the very steps of one.
TRAINING = TrainingConfig(learning_rate=3e-3, epochs=2, batch_size=16, max_length=32)


@contextmanager
def open_logs(folder: Path, *arguments: Any) -> Iterator[list[Logger]]:
    yield [CSVLogger(folder, name="", version="")]


@pytest.fixture
def suite(tmp_path: Path, write_emotions: Callable[[Path], Path]) -> EmotionSuite:
    return EmotionSuite(write_emotions(tmp_path), EmotionSettings(out_of_domain=["emoint"]))


def trained(
    folder: Path,
    pico_cache: Path,
    suite: EmotionSuite,
    trainer: TrainerConfig,
    training: TrainingConfig = TRAINING,
) -> ZooEntry:
    checkpoint = replace(find_checkpoint(ModelConfig("pico_bert", "pico:bert"), pico_cache), dropout=0.0)
    logs = partial(open_logs, folder / "logs")
    entry, new = find_or_train(Zoo(folder / "zoo"), checkpoint, suite, ["tec"], training, trainer, 1, logs)
    assert new
    return entry


STATISTICS = StatisticsConfig(
    gram=GramConfig(examples=30),
    fisher=FisherConfig(examples=7),
    gradient_gram=GradientGramConfig(examples=7),
    batch_tokens=40,
)
WITH_PADDING = replace(
    STATISTICS,
    gram=GramConfig(examples=40, count_padding=True, extra_rows=True),
)


def collected(
    folder: Path, entry: ZooEntry, suite: EmotionSuite, trainer: TrainerConfig, settings: StatisticsConfig
) -> list[Any]:
    """Statistics of every kind of a member, read from their files."""
    data = CorpusDataModule(
        suite,
        find_checkpoint(ModelConfig("pico_bert", "pico:bert"), folder).tokenizer(),
        batch_size=16,
        eval_batch_size=16,
        max_length=32,
        seed=0,
    )
    files = []
    for request in requests_of(settings, TRAINING, trainer):
        if settings is WITH_PADDING and request.kind != "gram":
            continue
        load = partial(load_module, entry.path, suite.task("tec"))
        batches = partial(data.statistics_dataloader, "tec")
        arguments = (entry, request, load, batches, suite.fingerprint("tec"))
        assert collect_for_entry(make_trainer(trainer), *arguments)
        assert not collect_for_entry(make_trainer(trainer), *arguments)
        files.append(open_statistics(entry, request, suite.fingerprint("tec")))
    return files


def test_two_devices_train_the_adapter_that_one_does(tmp_path: Path, pico_cache: Path, suite: EmotionSuite) -> None:
    training = replace(TRAINING, lora=LoraConfig(rank=2))
    entries = [trained(tmp_path / str(by.devices), pico_cache, suite, by, training) for by in (ALONE, TWO)]
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        weights, others = (load_file(entry.path / file) for entry in entries)
        assert set(weights) == set(others)
        for name, weight in weights.items():
            torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=1e-4)


def test_two_devices_train_and_collect_what_one_does(tmp_path: Path, pico_cache: Path, suite: EmotionSuite) -> None:
    one, two = (trained(tmp_path / name, pico_cache, suite, trainer) for name, trainer in (("1", ALONE), ("2", TWO)))
    assert one.name == two.name
    weights, others = (load_file(entry.weights_path) for entry in (one, two))
    assert set(weights) == set(others)
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=1e-4)
    assert one.training["steps"] == two.training["steps"] == 6
    assert one.training["epoch"] == two.training["epoch"]
    assert two.dev_scores == pytest.approx(one.dev_scores, abs=0.01)
    assert (tmp_path / "2" / "logs" / "metrics.csv").is_file()

    # Statistics of the same weights, by both.
    copy = ZooEntry(Path(shutil.copytree(one.path, tmp_path / "copy" / one.name)))
    alone, together = (
        [file for settings in (STATISTICS, WITH_PADDING) for file in collected(pico_cache, entry, suite, by, settings)]
        for entry, by in ((one, ALONE), (copy, TWO))
    )
    for file, other in zip(alone, together, strict=True):
        assert file.path.name == other.path.name
        assert (file.examples, file.batches, file.shared) == (other.examples, other.batches, other.shared)
        assert file.batches > 1
        if isinstance(file, MatrixFile):
            assert file.rows == other.rows
        for name in file.shared:
            expected = file.read(name).double()
            assert float((other.read(name).double() - expected).norm()) <= 1e-6 * float(expected.norm())


class Killed(Exception):
    """What stands for the end of a process."""


class EndsIn(pl.Callback):
    """Ends training after this batch of an epoch, in the second process."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.end = epoch, batch

    def on_train_batch_end(self, trainer: pl.Trainer, one: Any, two: Any, three: Any, batch_idx: int) -> None:
        if rank() == 1 and self.end == (epoch_of(trainer), batch_idx):
            raise Killed


def train_with_dropout(
    folder: Path, kept: Path, checkpoint: Checkpoint, suite: EmotionSuite, end: EndsIn | None
) -> dict[str, Any]:
    """What each of the processes does: train, write down every step, and end where it has to."""
    snapshots.SECONDS, snapshots.BATCHES = 0.0, 1
    train_module.training_trainer = lambda one, two, callbacks, *rest, **others: training_trainer(
        one, two, [*callbacks, *([end] if end else [])], *rest, **others
    )
    training = replace(TRAINING, selection="last")
    return train_module.train_model(folder, checkpoint, suite, ["tec"], training, TWO, 1, snapshots=kept)


def test_two_devices_go_on_to_the_same_weights(
    tmp_path: Path, pico_cache: Path, suite: EmotionSuite, caplog: pytest.LogCaptureFixture
) -> None:
    """With dropout, which is another one in each process; to the last bit."""

    checkpoint = replace(find_checkpoint(ModelConfig("pico_bert", "pico:bert"), pico_cache), dropout=0.2)

    def train(name: str, kept: str, end: EndsIn | None = None) -> dict[str, Any]:
        work = partial(train_with_dropout, tmp_path / name, tmp_path / kept, checkpoint, suite, end)
        return run_together(TWO, work)

    expected = train("whole", "1")
    with pytest.raises((Killed, RuntimeError)):
        train("killed", "2", EndsIn(1, 0))
    assert not (tmp_path / "killed").exists()
    found = Snapshots(tmp_path / "2")
    assert found.found() is None and "is of 2 processes, not of 1: training begins anew" in caplog.text
    record = train("gone on", "2")
    assert {**record, "seconds": 0} == {**expected, "seconds": 0}
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "gone on"))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def ranks() -> tuple[int, int, bool]:
    return rank(), world_size(), "LOCAL_RANK" in os.environ


def fail_in_the_second() -> None:
    if rank() == 1:
        raise ZooError("the second has lost its data")
    torch.distributed.barrier()


def die_in_the_second() -> None:
    if rank() == 1:
        os._exit(9)
    torch.distributed.barrier()


def test_the_first_process_answers() -> None:
    assert run_together(TWO, ranks) == (0, 2, True)
    assert ranks() == (0, 1, False)


def test_an_error_in_one_process_ends_all_and_is_told() -> None:
    with pytest.raises(ZooError, match="the second has lost its data") as caught:
        run_together(TWO, fail_in_the_second)
    assert "fail_in_the_second" in str(caught.value.__cause__)


def test_a_process_that_is_killed_ends_all() -> None:
    # Or the first one tells that it has lost the second.
    with pytest.raises((ProcessError, RuntimeError), match=r"killed|[Cc]onnection"):
        run_together(TWO, die_in_the_second)


class OddError(Exception):
    """An error that cannot be made again from its message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail_oddly() -> None:
    raise OddError("out", "of order")


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    with pytest.raises(RuntimeError, match="OddError: out of order"):
        run_together(TWO, fail_oddly)


def test_evaluation_uses_one_device() -> None:
    assert trainer_devices(TWO) == {"devices": 1}
    assert trainer_devices(TWO, together=True) == {"devices": 1}  # outside of a process group


@pytest.mark.parametrize("strategy", ["fsdp", "ddp_spawn", "deepspeed_stage_3"])
def test_strategies_that_do_not_fit_are_told(strategy: str) -> None:
    (problem,) = replace(TWO, strategy=strategy).problems()
    assert problem.startswith("strategy: expected one of auto, ddp, ddp_find_unused_parameters_true, got ")
    assert not replace(TWO, strategy="ddp").problems()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_are_not_there_are_told() -> None:
    (problem,) = device_problems(replace(TWO, accelerator="gpu"))
    assert problem.startswith("trainer.accelerator: no CUDA GPU")
    assert not device_problems(TWO)

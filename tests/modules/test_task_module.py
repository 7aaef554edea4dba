from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from torch.utils.data import DataLoader

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.modules import Optimization, module_type
from regmean_lab.modules.base import TaskModule
from regmean_lab.suites.base import Task
from regmean_lab.tracking.names import DEV_SCORE

TASK = Task("single_label", ("a", "b", "c"), "macro_f1")


def batches(seed: int, sizes: list[int]) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_ids": torch.randint(5, 200, (size, 4), generator=generator),
            "attention_mask": torch.ones(size, 4, dtype=torch.long),
            "labels": torch.randint(3, (size,), generator=generator),
        }
        for size in sizes
    ]


def loader(content: list[dict[str, Tensor]]) -> DataLoader[Any]:
    return DataLoader(content, batch_size=None)  # type: ignore[arg-type]


@pytest.fixture
def module(pico_cache: Path) -> TaskModule:
    torch.manual_seed(3)
    checkpoint = find_checkpoint(ModelConfig("pico_bert", "pico:bert"), pico_cache)
    module_class = module_type(TASK)
    model = module_class.new_model(checkpoint, TASK)
    torch.nn.init.normal_(model.get_parameter("classifier.weight"))  # so that predictions are not all alike
    return module_class(model, TASK, Optimization(1e-3))


@pytest.fixture
def trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def predicted(module: TaskModule, content: list[dict[str, Tensor]]) -> tuple[list[int], list[int]]:
    with torch.no_grad():
        guesses = [label for batch in content for label in module.eval()(batch).argmax(-1).tolist()]
    return [label for batch in content for label in batch["labels"].tolist()], guesses


def test_dev_scores_are_means_over_dev_sets(module: TaskModule, trainer: pl.Trainer) -> None:
    """Each set counts alike, whatever its size; within a set, examples do."""
    sets = [batches(0, [8, 8, 3]), batches(1, [5])]
    trainer.validate(module, dataloaders=[loader(part) for part in sets], verbose=False)
    pairs = [predicted(module, part) for part in sets]
    assert len(set(pairs[0][1])) > 1
    macro = [100 * f1_score(truth, guesses, average="macro") for truth, guesses in pairs]
    accuracy = [100 * accuracy_score(truth, guesses) for truth, guesses in pairs]
    assert module.dev_scores["macro_f1"] == pytest.approx(sum(macro) / 2, abs=1e-3)
    assert module.dev_scores["accuracy"] == pytest.approx(sum(accuracy) / 2, abs=1e-3)
    assert float(trainer.callback_metrics[DEV_SCORE]) == pytest.approx(sum(macro) / 2, abs=1e-3)
    assert float(trainer.callback_metrics["dev/accuracy"]) == pytest.approx(sum(accuracy) / 2, abs=1e-3)


def test_each_validation_counts_anew(module: TaskModule, trainer: pl.Trainer) -> None:
    first, second = batches(0, [8]), batches(1, [8])
    trainer.validate(module, dataloaders=loader(first), verbose=False)
    trainer.validate(module, dataloaders=loader(second), verbose=False)
    truth, guesses = predicted(module, second)
    assert module.dev_scores["accuracy"] == pytest.approx(100 * accuracy_score(truth, guesses), abs=1e-3)


def test_predictions_are_those_of_the_last_test_by_loader(module: TaskModule, trainer: pl.Trainer) -> None:
    sets = [batches(0, [4, 4, 1]), batches(1, [2])]
    trainer.test(module, dataloaders=loader(sets[1]), verbose=False)
    trainer.test(module, dataloaders=[loader(part) for part in sets], verbose=False)
    found = module.predictions()
    assert len(found) == 2
    for part, result in zip(sets, found, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(result.logits, torch.cat([module.eval()(batch) for batch in part]))
        assert torch.equal(result.labels, torch.cat([batch["labels"] for batch in part]))


def test_training_lowers_the_loss(module: TaskModule, trainer: pl.Trainer) -> None:
    content = batches(0, [16])
    before = module.loss(module.eval()(content[0]), content[0]["labels"]).item()
    module.train()
    trainer.fit(module, loader(content * 40), loader(content))
    assert module.loss(module.eval()(content[0]), content[0]["labels"]).item() < before - 0.05
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-7)  # the schedule's end


def test_a_module_for_evaluation_has_no_optimizer(module: TaskModule) -> None:
    with pytest.raises(RuntimeError, match="evaluation only"):
        type(module)(module.model, TASK).configure_optimizers()

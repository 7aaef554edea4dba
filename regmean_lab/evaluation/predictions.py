"""Members' predictions, kept beside them: the same member on the same data is run once, not once per job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regmean_lab.config.groups import TrainerConfig
from regmean_lab.evaluation.prediction_files import ALONE, read_predictions, write_predictions
from regmean_lab.evaluation.scores import load_module, predict
from regmean_lab.modules import Predictions
from regmean_lab.suites.base import Task
from regmean_lab.suites.data_module import Batches
from regmean_lab.suites.evaluations import Evaluation
from regmean_lab.training.trainers import test_trainer
from regmean_lab.utils.files import sha256_of
from regmean_lab.zoo import ZooEntry

FOLDER = "predictions"


def member_predictions(
    entry: ZooEntry,
    task: Task,
    evaluations: Sequence[Evaluation],
    loaders: Sequence[Batches],
    trainer: TrainerConfig,
    max_length: int | None,
) -> list[Predictions]:
    """Predictions of a member on some evaluations, in order; those that are not kept yet are made now.

    Args:
        entry: the member.
        task: what it predicts.
        evaluations: the data sets.
        loaders: their loaders.
        trainer: device and precision.
        max_length: to how many tokens the loaders cut inputs.
    """
    paths = [_path(entry, evaluation, trainer.precision, max_length) for evaluation in evaluations]
    found = [_read(path) for path in paths]
    if None in found:
        with entry.predictions_lock():
            found = [_read(path) for path in paths]  # another job may have made them meanwhile
            missing = [number for number, predictions in enumerate(found) if predictions is None]
            if missing:
                made = predict(
                    test_trainer(trainer), load_module(entry.path, task), [loaders[number] for number in missing]
                )
                for number, predictions in zip(missing, made, strict=True):
                    write_predictions(paths[number], {ALONE: predictions})
                    found[number] = predictions
    return [predictions for predictions in found if predictions is not None]


def predictions_key(evaluation: Evaluation, precision: str, max_length: int | None) -> str:
    """Name of an evaluation, and a hash of everything but the model that determines predictions of it."""
    digest = sha256_of([repr((evaluation.task, precision, max_length)), *map(repr, evaluation.examples)])
    return f"{evaluation.name}-{digest[:16]}"


def _path(entry: ZooEntry, evaluation: Evaluation, precision: str, max_length: int | None) -> Path:
    return entry.path / FOLDER / f"{predictions_key(evaluation, precision, max_length)}.safetensors"


def _read(path: Path) -> Predictions | None:
    kept = read_predictions(path, [ALONE])
    return None if kept is None else kept[ALONE]

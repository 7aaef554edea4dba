"""Somebody's checkpoint as a member of the zoo: where a job would look for the member that it trained itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regmean_lab.checkpoints.scoring.corpora import SuiteCorpus
from regmean_lab.checkpoints.scoring.models import ScoredModel, read_models
from regmean_lab.checkpoints.scoring.predictions import predict_all
from regmean_lab.config.schema import ConfigurationError, Settings
from regmean_lab.metrics.metrics import score
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import Checkpoint, label_names, quiet_transformers
from regmean_lab.modules import TaskModule
from regmean_lab.suites.base import DataError, Task
from regmean_lab.tracking.environment import versions
from regmean_lab.training.train import describe, name_of, trainings_of
from regmean_lab.utils.names import abbreviated
from regmean_lab.zoo import Zoo, ZooEntry

log = logging.getLogger(__name__)


def add_member(settings: Settings, checkpoint: Checkpoint, reference: str, base: str | None = None) -> ZooEntry:
    """Put a checkpoint into the zoo as the member that a job's configuration describes.

    Args:
        settings: a checked configuration with a single member: its suite, model, training and seed are what the
            checkpoint is taken to have been made with.
        checkpoint: the pretrained model of the configuration, which jobs take tokenizer and task vectors from.
        reference: a folder, a model of the hub, or a folder of a LoRA adapter.
        base: of an adapter, if it is not the one that it names.

    Returns:
        The entry.

    Raises:
        ConfigurationError: with everything that stands against it; also if the zoo has such a member.
    """
    zoo, (training,) = Zoo(Path(settings.config.paths.zoo_dir)), trainings_of(settings)
    (corpus,) = training.corpora
    try:
        (model,) = read_models([reference], base=base, labels=None, models_folder=zoo.root / MODELS_FOLDER)
        task = settings.suite.task(corpus)
        numbers = _output_numbers(model, task)
    except (CheckpointError, DataError) as error:
        raise ConfigurationError(str(error).splitlines()) from None
    if found := _architecture_problems(model, checkpoint, task):
        raise ConfigurationError(found)
    description = describe(checkpoint, settings.suite, training.corpora, training.training, training.seed)

    def write(folder: Path) -> Mapping[str, Any]:
        module = model.module(task)
        _reorder(module, model, task, numbers)
        scores = _dev_scores(settings, model, corpus)
        module.save(folder)
        checkpoint.tokenizer().save_pretrained(folder)
        added = {"from": model.member.source.public_reference, "fingerprint": model.fingerprint}
        return {"scores": scores, "key_score": task.key_score, "versions": versions(), "added": added}

    prefix = name_of(checkpoint, settings.suite, training.corpora, training.training, training.seed)
    entry, added = zoo.find_or_train(description, prefix, write)
    if not added and entry.training.get("added", {}).get("fingerprint") != model.fingerprint:
        raise ConfigurationError(
            [
                f"checkpoint: {entry.path} is there already, with other weights; give another seed, or remove it: "
                f"regmean-lab zoo prune {entry.name}"
            ]
        )
    return entry


def _output_numbers(model: ScoredModel, task: Task) -> list[int] | None:
    """For each label of a task, the output of a checkpoint that has its name; None where outputs have none.

    Raises:
        DataError: when the checkpoint predicts something else.
    """
    if task.kind == "answers" and model.task.kind == "text":
        return None
    if model.task.kind != task.kind:
        raise DataError(f"checkpoint: {model.name} predicts {model.task.kind}, and members of the suite {task.kind}")
    own = model.task.labels
    if task.kind == "regression":
        return None
    if set(own) != set(task.labels):
        raise DataError(
            f"checkpoint: {model.name} predicts {abbreviated(own, 20)}, and members of the suite "
            f"{abbreviated(task.labels, 20)}; name its outputs so in id2label of its config.json"
        )
    return [own.index(label) for label in task.labels]


def _architecture_problems(model: ScoredModel, checkpoint: Checkpoint, task: Task) -> list[str]:
    """Why a checkpoint is not fine-tuned from a pretrained model; what it has learned is not looked at."""
    architecture = model.member.architecture
    config = checkpoint.config(**label_names(task)) if model.task.kind != "text" else checkpoint.config()
    if config.model_type != architecture.config.model_type:
        return [
            f"checkpoint: {model.name} is a {architecture.config.model_type} model, and model={checkpoint.name} a "
            f"{config.model_type} model; give the one that it was trained from"
        ]
    model_class: Any = type(architecture.model)
    with quiet_transformers(), torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in model_class(config).state_dict().items()}
    shapes = architecture.shapes
    wrong = [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]
    found = []
    if wrong:
        name = wrong[0]
        found.append(
            f"checkpoint: {model.name} has other weights than model={checkpoint.name} would: {abbreviated(wrong)} "
            f"({shapes.get(name)} where {expected.get(name)} is expected)"
        )
    if dict(model.tokenizer.get_vocab()) != dict(checkpoint.tokenizer().get_vocab()):
        found.append(
            f"checkpoint: {model.name} has other tokens than model={checkpoint.name}, whose tokenizer jobs use"
        )
    return found


def _reorder(module: TaskModule, model: ScoredModel, task: Task, numbers: Sequence[int] | None) -> None:
    """Give a module's outputs the order and the names of a suite's labels."""
    if numbers is None:
        return
    state: dict[str, Tensor] = module.model.state_dict()
    for name in model.member.architecture.label_outputs:
        state[name].copy_(state[name][list(numbers)].clone())
    for key, value in label_names(task).items():
        setattr(module.model.config, key, value)


def _dev_scores(settings: Settings, model: ScoredModel, corpus: str) -> dict[str, float]:
    config = settings.config
    evaluation = SuiteCorpus(corpus, settings.suite, "dev").evaluation(model.task)
    predicted = predict_all(
        *(model, [evaluation], config.trainer),
        batch_size=config.training.eval_batch_size,
        max_length=config.training.max_length,
    )[evaluation.name]
    return score(evaluation.task, predicted.logits, predicted.labels)

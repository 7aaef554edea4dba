"""Somebody's checkpoint as a member of the zoo: checked, its outputs in the suite's order, with its statistics."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints.members import read_member
from regmean_lab.checkpoints.published_statistics import Published, published_beside
from regmean_lab.checkpoints.scoring.corpora import SuiteCorpus
from regmean_lab.checkpoints.scoring.models import ScoredModel, read_models
from regmean_lab.checkpoints.settings import settings_problem
from regmean_lab.checkpoints.sources import Source
from regmean_lab.config.schema import ConfigurationError, Settings
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import Checkpoint, label_names, quiet_transformers
from regmean_lab.statistics import KINDS
from regmean_lab.suites.base import DataError, Task
from regmean_lab.tracking.environment import versions
from regmean_lab.training.descriptions import describe, name_of, trainings_of
from regmean_lab.utils.files import TRAINING_FILE, new_file, share
from regmean_lab.utils.names import abbreviated
from regmean_lab.zoo import Zoo, ZooEntry

if TYPE_CHECKING:
    from regmean_lab.modules import TaskModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedModel:
    """A checkpoint that was found to be a member of a suite.

    Attributes:
        model: the checkpoint.
        task: what the suite's members predict.
        numbers: for each label of the task, the output that has its name; None where outputs have none.
        published: the statistics beside it.
    """

    model: ScoredModel
    task: Task
    numbers: tuple[int, ...] | None
    published: Published

    @property
    def in_order(self) -> bool:
        """Whether its outputs are in the order of the suite's labels."""
        return self.numbers is None or list(self.numbers) == list(range(len(self.numbers)))

    def imports(self, kind: str) -> bool:
        """Whether statistics of a kind can be brought with it: matrices of outputs are not put into another order."""
        return self.in_order or KINDS[kind].of != "outputs"


def checked_model(
    model: ScoredModel, checkpoint: Checkpoint, task: Task, key: str, *, with_statistics: bool = True
) -> CheckedModel:
    """Check that a checkpoint could have been fine-tuned from a pretrained model on a task.

    Args:
        model: the checkpoint.
        checkpoint: the pretrained model, which jobs take tokenizer and task vectors from.
        task: what members predict.
        key: what messages begin with.
        with_statistics: whether statistics beside it are looked at; without, none are brought.

    Raises:
        ConfigurationError: with everything that stands against it.
    """
    found, numbers = [], None
    try:
        numbers = _output_numbers(model, task)
    except DataError as error:
        found.append(str(error))
    found += _architecture_problems(model, checkpoint, task)
    published = published_beside(model.member) if with_statistics else Published()
    advice = "; to measure them on the suite's data instead: statistics.published=false"
    found += [f"{problem}{advice}" for problem in published.problems]
    if found:
        raise ConfigurationError([f"{key}: {problem}" for problem in found])
    return CheckedModel(model, task, None if numbers is None else tuple(numbers), published)


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
    (training,) = trainings_of(settings)
    (corpus,) = training.corpora
    models_folder = Path(settings.config.paths.zoo_dir) / MODELS_FOLDER
    try:
        (model,) = read_models([reference], base=base, labels=None, models_folder=models_folder)
        task = settings.suite.task(corpus)
    except (CheckpointError, DataError) as error:
        raise ConfigurationError(str(error).splitlines()) from None
    published = settings.config.statistics.published
    checked = checked_model(model, checkpoint, task, "checkpoint", with_statistics=published)
    description = describe(checkpoint, settings.suite, training.corpora, training.training, training.seed)
    prefix = name_of(checkpoint, settings.suite, training.corpora, training.training, training.seed)
    return add_checked(settings, checkpoint, checked, description, prefix)


def add_checked(
    settings: Settings, checkpoint: Checkpoint, checked: CheckedModel, description: Mapping[str, Any], prefix: str
) -> ZooEntry:
    """The entry of a checkpoint in the zoo, into which it is put now, with its statistics, if it is not there.

    Args:
        settings: the configuration, which says where the zoo is, and how its scores on dev are computed.
        checkpoint: the pretrained model, whose tokenizer it gets.
        checked: the checkpoint.
        description: what its address is a hash of; ``corpus`` is whose member it is.
        prefix: how the entry's name begins.

    Raises:
        ConfigurationError: if there is a member of this description with other weights.
    """
    model, task, corpus = checked.model, checked.task, str(description["corpus"])

    def write(folder: Path) -> Mapping[str, Any]:
        module = model.module(task)
        _reorder(module, model, task, checked.numbers)
        scores = _dev_scores(settings, model, corpus)
        module.save(folder)
        checkpoint.tokenizer().save_pretrained(folder)
        source = model.member.source
        added = {"from": source.public_reference, "revision": source.revision, "fingerprint": model.fingerprint}
        return {"scores": scores, "key_score": task.key_score, "versions": versions(), "added": added}

    entry, added = Zoo(Path(settings.config.paths.zoo_dir)).find_or_train(description, prefix, write)
    if not added and entry.training.get("added", {}).get("fingerprint") != model.fingerprint:
        raise ConfigurationError(
            [
                f"checkpoint: {entry.path} is there already, with other weights; give another seed, or remove it: "
                f"regmean-lab zoo prune {entry.name}"
            ]
        )
    log.info("%s %s", "added" if added else "found", entry.path)
    for line in checked.published.unused:
        log.warning("%s", line)
    _import_statistics(checked, entry)
    return entry


def _import_statistics(checked: CheckedModel, entry: ZooEntry) -> None:
    """Bring the statistics that lie beside a checkpoint, with outputs in the order that the entry's have.

    Of an entry of a zoo that are also those that jobs have measured, whose names tell the data and the settings.
    """
    member, numbers = checked.model.member, checked.numbers
    if (member.source.folder / TRAINING_FILE).is_file() and checked.in_order:
        for path in ZooEntry(member.source.folder).statistics_files():
            target = entry.statistics_dir / path.name
            if "-" in path.stem and not target.exists():
                with new_file(target) as temporary:
                    shutil.copyfile(path, temporary)
    for kind, path in checked.published.whole.items():
        target = published_path(entry.path, kind)
        if target.exists():
            continue
        outputs = member.architecture.label_outputs if KINDS[kind].of == "parameters" else frozenset[str]()
        if not checked.imports(kind):
            log.warning("%s: not used, since the suite's labels are in another order than the checkpoint's", path)
            continue
        with new_file(target) as temporary:
            if checked.in_order or not outputs:
                shutil.copyfile(path, temporary)
                continue
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                metadata = file.metadata()
            for name in outputs & tensors.keys():
                tensors[name] = tensors[name][list(numbers or ())].contiguous()
            save_file(tensors, temporary, metadata=metadata)
            share(temporary)


def _output_numbers(model: ScoredModel, task: Task) -> list[int] | None:
    """For each label of a task, the output of a checkpoint that has its name; None where outputs have none.

    Raises:
        DataError: when the checkpoint predicts something else.
    """
    if task.kind == "answers" and model.task.kind == "text":
        return None
    if model.task.kind != task.kind:
        raise DataError(f"{model.name} predicts {model.task.kind}, and members of the suite {task.kind}")
    own = model.task.labels
    if task.kind == "text" and own != task.labels:
        raise DataError(f"{model.name} is {own[0]}, and members of the suite {task.labels[0]} (suite.form)")
    if task.kind in ("regression", "text"):
        return None
    if set(own) != set(task.labels):
        raise DataError(
            f"{model.name} predicts {abbreviated(own, 20)}, and members of the suite "
            f"{abbreviated(task.labels, 20)}; name its outputs so in id2label of its config.json"
        )
    return [own.index(label) for label in task.labels]


def _architecture_problems(model: ScoredModel, checkpoint: Checkpoint, task: Task) -> list[str]:
    """Why a checkpoint is not fine-tuned from a pretrained model; what it has learned is not looked at."""
    architecture = model.member.architecture
    config = checkpoint.config(**label_names(task)) if model.task.kind != "text" else checkpoint.config()
    if config.model_type != architecture.model_type:
        return [
            f"{model.name} is a {architecture.model_type} model, and model={checkpoint.name} a "
            f"{config.model_type} model; give the one that it was trained from (model=NAME, or model.name=NAME "
            "model.checkpoint=FOLDER_OR_NAME)"
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
            f"{model.name} has other weights than model={checkpoint.name} would: {abbreviated(wrong)} "
            f"({shapes.get(name)} where {expected.get(name)} is expected)"
        )
    if dict(model.tokenizer.get_vocab()) != dict(checkpoint.tokenizer().get_vocab()):
        found.append(f"{model.name} has other tokens than model={checkpoint.name}, whose tokenizer jobs use")
    return found or _settings_problems(model, checkpoint)


def _settings_problems(model: ScoredModel, checkpoint: Checkpoint) -> list[str]:
    """Settings of a checkpoint that compute something else from the same weights than a pretrained model's do."""
    if checkpoint.revision is not None and checkpoint.folder is None:
        return []  # its configuration lies on the hub, and nothing is fetched for a check
    try:
        base = read_member(Source(f"model={checkpoint.name}", checkpoint.source, Path(checkpoint.location)), None)
    except CheckpointError:
        return []  # such as a model without a class of its own: what stands against it is told elsewhere
    problem = settings_problem(base, model.member, "keep")
    return [] if problem is None else [problem]


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
    # With Lightning, which a checkpoint is checked without: a job whose result is there looks at its members, too.
    from regmean_lab.checkpoints.scoring.predictions import predict_all
    from regmean_lab.metrics.metrics import score

    config = settings.config
    evaluation = SuiteCorpus(corpus, settings.suite, "dev").evaluation(model.task)
    predicted = predict_all(
        *(model, [evaluation], config.trainer),
        batch_size=config.training.eval_batch_size,
        max_length=config.training.max_length,
    )[evaluation.name]
    return score(evaluation.task, predicted.logits, predicted.labels)

"""``regmean-lab zoo import``: the models of the paper's released code as members of this zoo."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from regmean_lab.checkpoints.adding import CheckedModel, add_checked, checked_model
from regmean_lab.checkpoints.released_zoo import ReleasedModel, as_checkpoint
from regmean_lab.checkpoints.scoring.models import read_models
from regmean_lab.config.schema import ConfigurationError, Settings
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.prepare.base import PrepareError
from regmean_lab.suites.base import DataError
from regmean_lab.training.descriptions import describe, name_of
from regmean_lab.zoo import ZooEntry

log = logging.getLogger(__name__)


def import_released(
    settings: Settings, checkpoint: Checkpoint, models: Sequence[ReleasedModel], fisher: str | None
) -> tuple[list[ZooEntry], list[str]]:
    """Put models of a released zoo where jobs look for the members that they would train.

    All are read and checked before the first is added. Of several with the same corpus and seed the newest is taken.

    Args:
        settings: a checked configuration: its suite, model and training are what the jobs have that are to find them.
        checkpoint: the pretrained model.
        models: the models, oldest first.
        fisher: the source of labels of their Fisher information; None leaves that out.

    Returns:
        The entries, and why others are not imported.
    """
    models_folder = Path(settings.config.paths.zoo_dir) / MODELS_FOLDER
    newest: dict[tuple[str, int], ReleasedModel] = {}
    found, checked = [], list[tuple[str, int, CheckedModel]]()
    for model in models:
        corpus = model.corpus(settings.suite.candidates)
        if corpus is None:
            found.append(f"{model.folder}: suite {settings.suite.name} has no corpus {model.dataset!r}")
            continue
        key = (corpus, settings.config.seed if model.seed is None else model.seed)
        if (older := newest.get(key)) is not None:
            log.info("%s is left out: %s is newer, of the same corpus and seed", older.folder, model.folder)
        newest[key] = model
    for (corpus, seed), model in newest.items():
        task = settings.suite.task(corpus)
        try:
            folder = as_checkpoint(model, task, checkpoint, models_folder, fisher)
            (read,) = read_models([str(folder)], base=None, labels=None, models_folder=models_folder)
            checked.append((corpus, seed, checked_model(read, checkpoint, task, str(model.folder))))
        except ConfigurationError as error:
            found += error.problems
        except (PrepareError, CheckpointError, DataError) as error:
            found += [f"{model.folder}: {line}" for line in str(error).splitlines()]
    entries = []
    for corpus, seed, one in checked:
        description = describe(checkpoint, settings.suite, [corpus], settings.config.training, seed)
        prefix = name_of(checkpoint, settings.suite, [corpus], settings.config.training, seed)
        try:
            entries.append(add_checked(settings, checkpoint, one, description, prefix))
        except ConfigurationError as error:
            found += [f"{newest[corpus, seed].folder}: {problem}" for problem in error.problems]
    return entries, found

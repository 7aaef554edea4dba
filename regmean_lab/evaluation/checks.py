"""What is checked before any work: the configuration, then the files, packages and the device that it needs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from regmean_lab.config.schema import ConfigurationError, Settings, settings_of
from regmean_lab.merging.parts import missing_blocks
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.modules import module_type
from regmean_lab.tracking.loggers import logger_problems
from regmean_lab.training.lora import lora_problems
from regmean_lab.training.processes import device_problems
from regmean_lab.training.starting_heads import head_problems


def check(config: DictConfig) -> tuple[Settings, Checkpoint]:
    """Check a composed configuration, and that what it needs is there.

    Raises:
        ConfigurationError: with everything that is wrong with the values, or else everything that is missing.
    """
    settings = settings_of(config)
    return settings, check_files(settings)


def checkpoint_if_any(settings: Settings) -> Checkpoint | None:
    """The pretrained model of a configuration; None if it is not there."""
    try:
        return find_checkpoint(settings.config.model, Path(settings.config.paths.zoo_dir) / MODELS_FOLDER)
    except ModelError:
        return None


def check_files(settings: Settings) -> Checkpoint:
    """Check that data, model, packages and device are there.

    Raises:
        ConfigurationError: with everything that is missing, and how to get it.
    """
    config, found = settings.config, logger_problems(settings.config.logger)
    found += settings.suite.missing(settings.corpora)
    found += device_problems(config.trainer)
    checkpoint = None
    try:
        checkpoint = find_checkpoint(config.model, Path(config.paths.zoo_dir) / MODELS_FOLDER)
    except ModelError as error:
        found.append(str(error))
    else:
        tasks = {member: settings.suite.task(member) for member in settings.members}
        found += module_type(tasks[settings.members[0]]).model_problems(checkpoint, tasks[settings.members[0]])
        trained = {member: task for member, task in tasks.items() if member not in settings.checkpoints}
        found += head_problems(checkpoint, trained)
        found += lora_problems(config.training.lora, checkpoint, list(trained.values()))
        if parts := getattr(settings.method, "parts", None):
            found += [f"method.{problem}" for problem in missing_blocks(parts, checkpoint.parameter_names())]
    if found or checkpoint is None:
        raise ConfigurationError(found)
    return checkpoint

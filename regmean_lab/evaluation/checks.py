"""What is checked before any work: the configuration, then the files, packages and the device that it needs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from regmean_lab.config.schema import ConfigurationError, Settings, settings_of
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint, ModelError
from regmean_lab.tracking.loggers import logger_problems
from regmean_lab.training.processes import device_problems


def check(config: DictConfig) -> tuple[Settings, Checkpoint]:
    """Check a composed configuration, and that what it needs is there.

    Raises:
        ConfigurationError: with everything that is wrong with the values, or else everything that is missing.
    """
    settings = settings_of(config)
    return settings, check_files(settings)


def find_files(settings: Settings) -> tuple[Checkpoint | None, list[str]]:
    """The pretrained model, if it is there; and what is missing of data, model, packages and device."""
    config, found = settings.config, logger_problems(settings.config.logger)
    found += settings.suite.missing(settings.corpora)
    found += device_problems(config.trainer)
    try:
        return find_checkpoint(config.model, Path(config.paths.zoo_dir) / MODELS_FOLDER), found
    except ModelError as error:
        return None, [*found, str(error)]


def check_files(settings: Settings) -> Checkpoint:
    """Check that data, model, packages and device are there, and that the model does for the job.

    Raises:
        ConfigurationError: with everything that is missing, and how to get it.
    """
    checkpoint, found = find_files(settings)
    if checkpoint is not None:
        # Imports transformers, which a result that is there already is found without.
        from regmean_lab.evaluation.model_checks import model_problems

        found += model_problems(settings, checkpoint)
    if found or checkpoint is None:
        raise ConfigurationError(found)
    return checkpoint

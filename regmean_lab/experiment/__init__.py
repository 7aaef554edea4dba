"""One job, from configuration to ``result.json``: its result is found, or computed."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from regmean_lab.checkpoints.checks import find_finished
from regmean_lab.config.schema import settings_of
from regmean_lab.results import RESULT_FILE, Result

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path, overrides: list[str]) -> tuple[Result, bool]:
    """Run one job, or find its finished result.

    Args:
        config: the composed configuration, without Hydra's own part.
        folder: where the job writes.
        overrides: the overrides that made the configuration, for the record.

    Returns:
        The result, and whether it was computed now.

    Raises:
        ConfigurationError: with everything that is wrong, before any work.
    """
    settings = settings_of(config)
    if (finished := find_finished(settings, folder)) is not None:
        log.info("found the finished result %s", folder / RESULT_FILE)
        return finished, False
    from regmean_lab.experiment.computing import compute  # imports all that trains, which takes seconds

    return compute(settings, folder, overrides)

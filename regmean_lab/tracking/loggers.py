"""Lightning loggers of a job, opened, and always closed, even on errors."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.config.groups import LoggerConfig
from regmean_lab.tracking.sweep_name import current_sweep

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard"}
_WANDB_HOST = "api.wandb.ai"


def logger_problems(config: LoggerConfig) -> list[str]:
    """What stands in the way of the configured logger: a package that is not installed."""
    package = _PACKAGES.get(config.kind)
    if package and importlib.util.find_spec(package) is None:
        return [f"logger: {config.kind} needs the package {package}; install it with: pip install {package}"]
    return []


@contextmanager
def open_loggers(
    config: LoggerConfig,
    folder: Path,
    name: str,
    job_type: str,
    group: str,
    configuration: Mapping[str, Any],
) -> Iterator[list[Logger]]:
    """The configured loggers, writing below ``folder``; closed at the end, so that the next job begins its own.

    Args:
        config: group ``logger``.
        folder: the job's folder.
        name: what the run is called.
        job_type: ``train``, ``statistics``, ``merge`` or ``evaluate``: W&B's job type.
        group: W&B group, unless the configuration names one.
        configuration: what is logged as the run's hyperparameters.
    """
    # Not above: Lightning takes seconds to import, and what is checked and found needs no logger.
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    loggers: list[Logger] = []
    status = "failed"
    try:
        if config.kind == "csv":
            loggers = [CSVLogger(folder, name="", version="")]
        elif config.kind == "tensorboard":
            loggers = [TensorBoardLogger(folder, name="", version="tensorboard")]
        elif config.kind == "wandb":
            folder.mkdir(parents=True, exist_ok=True)
            loggers = [
                WandbLogger(
                    project=config.project,
                    entity=config.entity,
                    name=name,
                    group=config.group or current_sweep() or group,
                    job_type=job_type,
                    save_dir=folder,
                    offline=wandb_is_offline(config),
                )
            ]
        for logger in loggers:
            logger.log_hyperparams(dict(configuration))
        yield loggers
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=0 if status == "success" else 1)


def wandb_is_offline(config: LoggerConfig) -> bool:
    """Whether W&B only writes locally: as configured, else unless an account is set up on this machine."""
    if config.offline is not None:
        return config.offline
    if mode := os.environ.get("WANDB_MODE"):
        return mode in ("offline", "dryrun")  # the second is what Lightning sets for later loggers of the process
    if os.environ.get("WANDB_API_KEY"):
        return False
    try:
        return netrc.netrc().authenticators(_WANDB_HOST) is None
    except (OSError, netrc.NetrcParseError):
        return True

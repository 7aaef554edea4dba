"""Composes the jobs of a sweep that run in this process: each choice of groups once, values set in copies of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from regmean_lab.config.grids import Composer


def share_compositions(launcher: Launcher) -> None:
    """Have a launcher of this process compose what its jobs have in common once.

    Args:
        launcher: Hydra's basic one, which has been set up; changed in place.
    """
    context = getattr(launcher, "hydra_context", None)
    if isinstance(context, HydraContext) and type(context.config_loader) is ConfigLoaderImpl:
        launcher.hydra_context = HydraContext(SweepLoader(context.config_loader), context.callbacks)  # type: ignore[attr-defined]


class SweepLoader(ConfigLoaderImpl):
    """Hydra's loader, which composes a job of a sweep in a tenth of the time where another one had its choices.

    Args:
        loader: Hydra's own.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        vars(self).update(vars(loader))
        self._own = loader
        self._composers: dict[int, tuple[DictConfig, Composer]] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """What Hydra's own loader composes.

        Args:
            master_config: that of the command.
            sweep_overrides: the job's overrides.
        """
        whole = partial(_composed, self._own, master_config)
        _, composer = self._composers.setdefault(id(master_config), (master_config, Composer(whole=whole)))
        parsed = composer.parsed(sweep_overrides)
        if any(override.is_hydra_override() for override in parsed):  # steps, which have a folder each
            return self._own.load_sweep_config(master_config, sweep_overrides)
        config = composer.compose(sweep_overrides)
        # What Hydra tells of the overrides themselves.
        config.hydra.overrides.task = list(sweep_overrides)
        settings = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=parsed, kv_sep=settings.kv_sep, item_sep=settings.item_sep, exclude_keys=settings.exclude_keys
        )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config


def _composed(loader: ConfigLoaderImpl, master_config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    return loader.load_sweep_config(master_config, list(overrides))

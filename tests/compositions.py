"""Configurations of jobs, as the command composes them; each choice of groups is composed once in a process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.config.grids import CONFIG_NAME, Composer
from regmean_lab.config.locations import configuration_root, own_folders
from regmean_lab.config.resolvers import register_resolvers

_COMPOSERS: dict[Sequence[str], Composer] = {}


def compose_job(*overrides: str, root: str = CONFIG_NAME, **settings: Any) -> Any:
    """The configuration of a job.

    Args:
        overrides: of a single job.
        root: the root configuration.
        settings: of Hydra's ``compose``, which then composes anew.
    """
    register_resolvers()
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        if not settings:
            composer = _COMPOSERS.setdefault((root, *own_folders()), Composer(root))
            with suppress(HydraException, OmegaConfBaseException):  # Hydra itself tells what it refuses
                return composer.compose(overrides)
        return compose(root, list(overrides), **settings)

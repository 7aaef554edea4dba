"""Experiments that are no job of a suite: each has a root configuration, a schema and a task of its own.

One entry in :data:`ROOTS` adds another: ``conf/NAME.yaml`` is its root configuration (which takes its schema from
``NAME_schema`` and sets ``experiment: NAME``), and the module named here has

- ``SCHEMA``, the dataclass of its whole configuration, with keys ``experiment``, ``trainer`` and ``paths``;
- ``check(config)``, which raises ``ConfigurationError`` for a configuration that cannot work;
- ``written(config)``, which tells what a job writes outside of its own folder, so that no two jobs of a sweep do it;
- ``run(config, folder)``, which does the work and writes records below ``folder``.

The module is imported when its experiment is asked for, and at no other time.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

ROOTS = {
    "collect_statistics": "regmean_lab.checkpoints.collect_command",
    "merge_checkpoints": "regmean_lab.checkpoints.merge_command",
}
"""Module of each experiment with a root configuration of its own."""

EXPERIMENT_KEY = "experiment"


class RootModule(Protocol):
    """What the module of such an experiment has."""

    SCHEMA: type

    def check(self, config: DictConfig) -> None:
        """Check a composed configuration, as far as can be done without the work itself."""

    def written(self, config: DictConfig) -> list[tuple[str, Path]]:
        """What a job writes outside of its own folder: by the key that says so, paths."""

    def run(self, config: DictConfig, folder: Path) -> None:
        """Do the work of one job; ``folder`` is the job's folder below ``paths.output_dir``."""


class RootError(ValueError):
    """A command line that mixes experiments of different roots."""


def split_root(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The root that a command line asks for, and its other arguments.

    Args:
        arguments: overrides and flags, as on a command line.

    Returns:
        A name of :data:`ROOTS`, and the arguments without the override that chose it (Hydra would look for an option
        of the group ``experiment``); or None and all arguments.

    Raises:
        RootError: when such an experiment is one of several.
    """
    chosen = [argument for argument in arguments if argument.partition("=")[0] == EXPERIMENT_KEY]
    names = [name.strip() for argument in chosen for name in argument.partition("=")[2].split(",")]
    roots = [name for name in names if name in ROOTS]
    if not roots:
        return None, list(arguments)
    if len(names) > 1:
        raise RootError(
            f"{EXPERIMENT_KEY}: {roots[0]} has a configuration of its own and cannot be one of several experiments "
            f"({', '.join(names)}); give it a command of its own"
        )
    return roots[0], [argument for argument in arguments if argument not in chosen]


def root_module(name: str) -> RootModule:
    """The module of an experiment of :data:`ROOTS`."""
    return cast(RootModule, importlib.import_module(ROOTS[name]))


def register_root(name: str) -> None:
    """Make the schema of an experiment of :data:`ROOTS` known to Hydra (idempotent)."""
    ConfigStore.instance().store(name=f"{name}_schema", node=root_module(name).SCHEMA)

"""The schemas of all groups as Hydra takes them, each made when it is asked for.

Making all of them takes longer than composing a configuration, which needs four or five.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import MISSING as REQUIRED
from dataclasses import field, fields, make_dataclass
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from regmean_lab.config import checkpoint_commands
from regmean_lab.config.baselines import comparator_types
from regmean_lab.config.harness import HARNESS, HarnessSettings
from regmean_lab.config.method_settings import method_settings
from regmean_lab.config.schema import Config
from regmean_lab.config.targets import TARGET
from regmean_lab.suites import suite_types

JOB = "schema"
"""The schema of a job of an experiment; those of single groups are below it."""

SUITES = f"{JOB}/suite"
METHODS = f"{JOB}/method"
GROUPS = ("", JOB, SUITES, METHODS)
"""Paths below which there are schemas."""

ROOT_ENDING = "_schema"
"""Of the schemas of experiments with a root configuration of their own."""


def schema_of(path: str) -> DictConfig | None:
    """The schema of a path, such as ``schema/method/regmean``; a copy, which may be changed. None: there is none."""
    group, _, name = path.rpartition("/")
    kind = _kinds(group).get(name)
    if kind is None:
        return None
    return copy.deepcopy(_named_node(kind, name) if group else _root_node(kind))


def has_schema(path: str) -> bool:
    """Whether there is a schema of a path."""
    group, _, name = path.rpartition("/")
    return group in GROUPS and name in _kinds(group)


def names_in(group: str) -> list[str]:
    """The names of the schemas in one of ``GROUPS``."""
    return sorted(_kinds(group))


def _kinds(group: str) -> dict[str, Any]:
    """The dataclass of each schema in a group, by name."""
    if group == "":
        roots = {f"{name}{ROOT_ENDING}": kind for name, kind in checkpoint_commands.SCHEMAS.items()}
        return {JOB: Config, **roots}
    if group == SUITES:
        return {**{name: suite.settings_type for name, suite in suite_types().items()}, HARNESS: HarnessSettings}
    return {**method_settings(), **comparator_types()} if group == METHODS else {}


def named_settings(settings: type[Any], name: str, target: str | None = None) -> type[Any]:
    """A settings dataclass with the ``name`` that selects it, as a configuration shows it.

    Args:
        settings: the dataclass.
        name: the name.
        target: the class by its full name, where that and not the name selects it.
    """
    types = get_type_hints(settings)
    public = [
        (entry.name, types[entry.name], field(default=entry.default))
        if entry.default is not REQUIRED
        else (entry.name, types[entry.name], field(default_factory=entry.default_factory))
        for entry in fields(settings)
        if entry.init
    ]
    keys = {"name": name} if target is None else {TARGET: target, "name": name}
    selecting = [(key, str, field(default=value)) for key, value in keys.items()]
    return make_dataclass(f"{settings.__name__}Config", [*selecting, *public])


def open_settings(settings: type[Any]) -> DictConfig:
    """The settings as Hydra keeps them; mappings take any name, so that ``suite.corpora.NAME=FILE`` needs no ``+``."""
    node: DictConfig = OmegaConf.structured(settings)
    for entry in fields(settings):
        if isinstance(mapping := node._get_node(entry.name), DictConfig):
            OmegaConf.set_struct(mapping, False)
    return node


@cache
def _named_node(settings: Hashable, name: str) -> DictConfig:
    """The schema of a suite or a method."""
    assert isinstance(settings, type)
    return open_settings(named_settings(settings, name))


@cache
def _root_node(settings: Hashable) -> DictConfig:
    """The schema of a root configuration; in that of a job ``checkpoints.CORPUS=…`` needs no ``+``."""
    node: DictConfig = OmegaConf.structured(settings)
    if settings is Config:
        OmegaConf.set_struct(node.checkpoints, False)
    return node

"""The pages of ``--help``: the configuration's own text, with the groups and options that a user chooses.

Hydra's own page lists every group, and copies all registered schemas for each of them, which takes seconds.
"""

from __future__ import annotations

import string

from hydra.core.object_type import ObjectType

from regmean_lab.config.grids import composing, config_loader, whole_composition
from regmean_lab.sweeps.launchers import LAUNCHER_GROUP

HIDDEN_GROUPS = ("hydra", "published", "schema")
"""Hydra's own groups, published settings, which other choices make, and schemas."""

ADDED_GROUPS = ("multirun_sweeps",)
"""Groups that are added with ``+``, as the default configuration chooses nothing in them."""


def help_page(config_name: str, page: str | None = None) -> str:
    """What ``--help`` prints.

    Args:
        config_name: the root configuration.
        page: an option of the group ``hydra/help``, instead of the root configuration's own.
    """
    with composing():
        overrides = [] if page is None else [f"hydra/help={page}"]
        template = whole_composition(config_name, overrides).hydra.help.template
        return string.Template(template).safe_substitute(APP_CONFIG_GROUPS=group_lines())


def group_lines() -> str:
    """A line for each group that a user chooses from, with its options; Hydra must be initialised."""
    repository = config_loader().repository
    lines = []
    for group in [*repository.get_group_options("", ObjectType.GROUP), LAUNCHER_GROUP]:
        if group not in HIDDEN_GROUPS:
            options = repository.get_group_options(group, ObjectType.CONFIG)
            lines.append(f"{'+' if group in ADDED_GROUPS else ''}{group}: {', '.join(sorted(options))}")
    return "\n".join(sorted(lines, key=lambda line: line.lstrip("+")))

"""Methods and suites of other packages, which name them as entry points (docs/adding/plugin.md)."""

from __future__ import annotations

import importlib.util
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from regmean_lab.utils.errors import UserError

METHODS, SUITES = "regmean_lab.methods", "regmean_lab.suites"
"""Groups of entry points; each names a module or a class that registers itself when it is imported."""

CONFIGURATION = "conf"
"""Folder of a package with its YAML, laid out like the folder of that name here."""

failed: set[EntryPoint] = set()
"""Those that could not be imported in this process."""


class PluginError(UserError):
    """Packages that cannot be used together; the message names both."""


@cache
def plugins(group: str) -> tuple[EntryPoint, ...]:
    """What installed packages name in a group, in an order that does not depend on that of the installation."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: (package_of(entry), entry.name)))


def package_of(entry: EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to."""
    return "a package without metadata" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def plugin_folders() -> list[Path]:
    """Folders with YAML of the packages whose entry points could be imported, each once."""
    found: dict[Path, None] = {}
    for entry in (*plugins(METHODS), *plugins(SUITES)):
        if entry not in failed:
            spec = importlib.util.find_spec(entry.module.partition(".")[0])  # which does not import it
            for place in (spec.submodule_search_locations if spec is not None else None) or ():
                if (folder := Path(place).absolute() / CONFIGURATION).is_dir():
                    found[folder] = None
    return list(found)

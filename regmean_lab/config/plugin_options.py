"""Options of the groups ``suite`` and ``method`` that other packages add."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hydra.core.config_store import ConfigStore

from regmean_lab.config.baselines import comparator_types
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.method_settings import method_settings
from regmean_lab.suites import suite_types
from regmean_lab.utils.plugins import CONFIGURATION, METHODS, SUITES, PluginError, plugin_folders, plugins


def register_plugin_options(reserved: Collection[str] = ()) -> None:
    """Make known to Hydra what other packages register without YAML of its own (idempotent).

    Args:
        reserved: names that mean another method on the command line, which no method may have.

    Raises:
        PluginError: for a name that two have.
    """
    methods = method_settings()
    for name in sorted(methods.keys() & {*comparator_types(), *reserved}):
        raise PluginError(f"method {name!r}: {_place(methods[name])} has a name of regmean_lab's; it needs another one")
    if any(map(plugins, (METHODS, SUITES))):
        _store_options({"suite": suite_types(), "method": methods})


def _store_options(kinds: Mapping[str, Mapping[str, type[Any]]]) -> None:
    """Options for what has no YAML; of the YAML of other packages, that no two have one name."""
    own, store = configuration_root() / CONFIGURATION, ConfigStore.instance()
    for group, types in kinds.items():
        owners = {path.stem: own for path in (own / group).glob("*.yaml")}
        for folder in plugin_folders():
            for path in sorted((folder / group).glob("*.yaml")):
                if path.stem in owners:
                    raise PluginError(
                        f"{group}={path.stem}: both {owners[path.stem]} and {folder} have {group}/{path.name}; rename "
                        "one, or uninstall its package"
                    )
                owners[path.stem] = folder
        for name, kind in types.items():
            if name not in owners and not _is_ours(kind):
                store.store(group=group, name=name, node={"defaults": [f"/schema/{group}/{name}@_here_"]})


def _place(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_ours(kind: type[Any]) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]

"""Launchers run the jobs of a sweep: our values of their settings, and a check that they are installed."""

from __future__ import annotations

from importlib.util import find_spec

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from regmean_lab.config.locations import configuration_root

LAUNCHER_GROUP = "hydra/launcher"

EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
"""The extra of the installation that each launcher needs; Hydra's ``basic`` needs none."""

PACKAGES = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit": "hydra_plugins.hydra_submitit_launcher",
    "ray": "ray",
}
"""What each extra brings."""


def register_launchers() -> None:
    """Merge our values, ``conf/launcher_for``, into the settings that installed launchers declare (idempotent).

    Keys and types stay the launcher's. (Hydra would merge a file of the same name in ``conf/hydra/launcher`` too, but
    warns that it will give that up.)
    """
    Plugins.instance()  # launchers declare their settings when they are discovered
    for path in sorted((configuration_root() / "conf" / "launcher_for").glob("*.yaml")):
        if not launcher_problems(path.stem):
            declared = ConfigStore.instance().load(f"{LAUNCHER_GROUP}/{path.name}").node
            merged = OmegaConf.merge(declared, OmegaConf.load(path))
            ConfigStore.instance().store(group=LAUNCHER_GROUP, name=path.stem, node=merged, provider=str(path))


def launcher_problems(launcher: str) -> list[str]:
    """What stands in the way of a launcher: an extra that is not installed."""
    extra = EXTRAS.get(launcher)
    if extra is None or find_spec(PACKAGES[extra]) is not None:
        return []
    return [f'{LAUNCHER_GROUP}={launcher}: it is not installed; get it with: pip install "regmean-lab[{extra}]"']

"""Launchers run the jobs of a sweep: the schemas of their settings, and a check that they are installed."""

from __future__ import annotations

from importlib.util import find_spec
from shutil import which

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

LAUNCHER_GROUP = "hydra/launcher"

EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
"""The extra of the installation that each launcher needs; Hydra's ``basic`` needs none."""

PACKAGES = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit": "hydra_plugins.hydra_submitit_launcher",
    "ray": "ray",
}
"""What each extra brings."""

COMMANDS = {"submitit_slurm": ("sbatch", "srun", "squeue")}
"""Programs that a launcher calls."""


def register_launchers() -> None:
    """Make what installed launchers declare the schemas of our files in ``conf/hydra/launcher`` (idempotent).

    Launchers declare their keys, types and values under the names that our files have. Hydra merges two configurations
    of one name, but warns that it will give that up; so theirs are moved to ``schema/launcher``.
    """
    Plugins.instance()  # launchers declare their settings when they are discovered
    store = ConfigStore.instance()
    declared = store.repo["hydra"]["launcher"]
    for name in EXTRAS:
        if (node := declared.pop(f"{name}.yaml", None)) is not None:
            store.store(group="schema/launcher", name=name, node=node.node, provider=node.provider)


def launcher_problems(launcher: str, *, runs: bool = False) -> list[str]:
    """What stands in the way of a launcher: an extra that is not installed, or a machine that cannot submit jobs.

    Args:
        launcher: its name.
        runs: whether jobs are launched; otherwise its settings are only looked at.
    """
    extra = EXTRAS.get(launcher)
    if extra is not None and find_spec(PACKAGES[extra]) is None:
        return [f'{LAUNCHER_GROUP}={launcher}: it is not installed; get it with: pip install "regmean-lab[{extra}]"']
    missing = [name for name in COMMANDS.get(launcher, ()) if runs and which(name) is None]
    if missing:
        return [
            f"{LAUNCHER_GROUP}={launcher}: there is no {' and no '.join(missing)} on the path; start the command where "
            "SLURM takes jobs, as on a login node of the cluster"
        ]
    return []

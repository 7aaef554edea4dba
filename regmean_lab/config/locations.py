"""Where the configuration lies: beside the package in a checkout, inside it when installed from a wheel."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

_PACKAGE = Path(__file__).resolve().parent.parent


def configuration_root() -> Path:
    """Folder that holds ``conf`` and ``multirun_sweeps``.

    Raises:
        FileNotFoundError: when the installation lacks them.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / "conf" / "config.yaml").is_file():
            return root
    raise FileNotFoundError(
        f"conf/config.yaml is neither in {_PACKAGE} nor in {_PACKAGE.parent}; reinstall regmean_lab"
    )


def register_sweeps() -> None:
    """Make ``multirun_sweeps``, which lies beside ``conf``, a configuration group of its own (idempotent)."""
    _share_store()
    for path in sorted((configuration_root() / "multirun_sweeps").glob("*.yaml")):
        ConfigStore.instance().store(
            group="multirun_sweeps", name=path.stem, node=OmegaConf.load(path), package="_global_", provider=str(path)
        )


def _share_store() -> None:
    """Keep Hydra from copying all that was registered for every composition, and 146 times for the page of ``--help``.

    It only reads the store there, and copies each entry that it takes out.
    """

    def itself(store: ConfigStore, _: dict[int, object]) -> ConfigStore:
        return store

    ConfigStore.__deepcopy__ = itself  # type: ignore[attr-defined]

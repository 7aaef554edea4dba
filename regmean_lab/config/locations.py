"""Where the configuration lies: beside the package in a checkout, inside it when installed from a wheel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

SEARCH_PATH_VARIABLE = "REGMEAN_LAB_SEARCH_PATH"
"""Environment variable with the folders of a user's own YAML, one a line; jobs inherit it in whatever process."""

PUBLISHED_SCHEME = "published"
"""Of the place on Hydra's search path that serves published settings."""

SCHEMA_SCHEME = "schema"
"""Of the place that serves the schemas of all groups."""

TARGET_SCHEME = "target"
"""Of the place that serves the settings of methods by the name of their class."""

_PACKAGE = Path(__file__).resolve().parent.parent


def configuration_root() -> Path:
    """Folder that holds ``conf``.

    Raises:
        FileNotFoundError: when the installation lacks them.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / "conf" / "config.yaml").is_file():
            return root
    raise FileNotFoundError(
        f"conf/config.yaml is neither in {_PACKAGE} nor in {_PACKAGE.parent}; reinstall regmean_lab"
    )


def use_own_folders(folders: Sequence[str]) -> None:
    """Have Hydra look for YAML in these folders, too, from now on.

    Args:
        folders: as ``hydra.searchpath`` takes them: ``file://FOLDER``, ``pkg://PACKAGE``, or a folder.
    """
    if folders:
        os.environ[SEARCH_PATH_VARIABLE] = "\n".join(folders)
    else:
        os.environ.pop(SEARCH_PATH_VARIABLE, None)


def own_folders() -> list[str]:
    """The folders of a user's own YAML, in order."""
    return [line for line in os.environ.get(SEARCH_PATH_VARIABLE, "").splitlines() if line]

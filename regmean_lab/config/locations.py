"""Where the configuration lies: beside the package in a checkout, inside it when installed from a wheel."""

from __future__ import annotations

from pathlib import Path

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

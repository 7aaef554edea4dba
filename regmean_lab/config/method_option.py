"""What a method is called that a YAML file of somebody's own has chosen: by the file, not by what it builds on."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig

from regmean_lab.config.targets import is_target

GROUP = "method"


def chosen_option(method: str) -> str | None:
    """The YAML file by which the running job chose its method, where it has another name than the method.

    Args:
        method: the method's own name.
    """
    if not HydraConfig.initialized():
        return None
    return _other(str(HydraConfig.get().runtime.choices.get(GROUP)), method)


def option_of(overrides: Sequence[str], method: str, otherwise: str | None = None) -> str | None:
    """The same of a job that was asked for by some overrides.

    Args:
        overrides: of the command line.
        method: the method's own name.
        otherwise: the answer where they choose no method.
    """
    given = [text.partition("=")[2] for text in overrides if text.startswith(f"{GROUP}=")]
    return _other(given[-1], method) if given else otherwise


def _other(option: str, method: str) -> str | None:
    return None if option in (method, "None", "") or is_target(option) else option

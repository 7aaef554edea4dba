"""Train language models on several corpora, merge their weights without data, and evaluate the result.

The libraries :mod:`regmean_lab.statistics` and :mod:`regmean_lab.merging` need PyTorch and safetensors only;
``python -m regmean_lab`` runs whole experiments, ``python -m regmean_lab.zoo`` looks after the trained members.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("regmean-lab")
except PackageNotFoundError:  # a checkout that is on the path but not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]

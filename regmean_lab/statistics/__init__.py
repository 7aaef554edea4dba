"""Statistics of models on data, in pure PyTorch.

Gram matrices of layers' inputs for RegMean, plain or weighted by how much rows matter, of the gradients at their
outputs for MaTS, Fisher diagonals for Fisher merging. Collect with `collect_gram`, `collect_weighted_gram`,
`collect_gradient_gram` and `collect_fisher` (or, from inside another loop, with `GramAccumulator` and its like), keep
with `save_gram`, …, read with `GramFile`, ….
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .library import *  # noqa: F403 - for type checkers, which know its list


def __getattr__(name: str) -> Any:
    """Import the library when something of it is asked for: the command's help needs the settings, not PyTorch."""
    if name.startswith("__") and name != "__all__":
        raise AttributeError(name)
    library = importlib.import_module(f"{__name__}.library")
    return globals()[name] if name in globals() else getattr(library, name)  # a file of this folder, or what they offer


def __dir__() -> list[str]:
    return [*__getattr__("__all__")]

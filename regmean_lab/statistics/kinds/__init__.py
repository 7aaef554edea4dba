"""The kinds of statistics, one file each: what readers, writers, plans, publishing and reports know of them.

`KINDS` is the table. A file in this folder that registers a kind is all that a new one takes, see docs/adding/kind.md.
"""

from __future__ import annotations

import importlib
import pkgutil

from .base import (
    KINDS,
    Collection,
    Kind,
    LayerStatistics,
    ModelSize,
    TaskModel,
    register_kind,
)

for _module in pkgutil.iter_modules(__path__):  # every file registers its kind, so that a new one is found
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "KINDS",
    "Collection",
    "Kind",
    "LayerStatistics",
    "ModelSize",
    "TaskModel",
    "register_kind",
]

"""LightningModules: one for each form of task."""

from __future__ import annotations

import importlib
import pkgutil

from regmean_lab.modules.base import Predictions, TaskModule, module_type, register_module
from regmean_lab.modules.optimization import Optimization

for _module in pkgutil.iter_modules(__path__):  # every file registers its module, so that a new one is found
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Optimization", "Predictions", "TaskModule", "module_type", "register_module"]

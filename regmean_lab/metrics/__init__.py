"""Metrics and ensembles: from logits to scores."""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):  # every file registers the metrics that it defines
    importlib.import_module(f"{__name__}.{_module.name}")

"""Downloading data, or converting the user's files, into the layouts that the suites read."""

from __future__ import annotations

import importlib
import pkgutil

from regmean_lab.prepare.base import PrepareError, Preparer, Request, preparers, register_preparer

# Every file may register a preparer, so that a new one is found. The command, and models, come when they are asked for.
for _module in pkgutil.iter_modules(__path__):
    if _module.name not in ("__main__", "cli", "model"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["PrepareError", "Preparer", "Request", "preparers", "register_preparer"]

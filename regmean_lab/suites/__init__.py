"""Suites: families of corpora, how their files are read, and how their examples reach a model."""

from __future__ import annotations

import importlib
import pkgutil

from regmean_lab.suites.base import (
    IGNORED,
    SPLITS,
    DataError,
    Example,
    MissingDataError,
    Split,
    Suite,
    Task,
    TaskKind,
    register_suite,
    suite_types,
)

# Every file registers its suite, so that a new one is found. Encodings and the data module, which import Lightning and
# transformers, come when they are used: the command's help does not wait for them.
LATER = ("encoding", "encoded", "data_module", "multi_task_data", "batch_sampling", "pseudo_text", "plain_text")
for _module in pkgutil.iter_modules(__path__):
    if not _module.name.endswith(LATER):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "IGNORED",
    "SPLITS",
    "DataError",
    "Example",
    "MissingDataError",
    "Split",
    "Suite",
    "Task",
    "TaskKind",
    "register_suite",
    "suite_types",
]

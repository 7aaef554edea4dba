"""Merge methods in pure torch: usable as a library, without Lightning, Hydra or transformers."""

from __future__ import annotations

import importlib
import pkgutil

from regmean_lab.merging.base import MergeMethod, method_types, register_method
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.merge import MergedParameter, differences, merge_members
from regmean_lab.merging.parameters import Layout, LinearLayer, MergeError, MergeMember, Parameter, TensorSettings

for _module in pkgutil.iter_modules(__path__):  # every file registers its method, so that a new one is found
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Layout",
    "LinearLayer",
    "MergeError",
    "MergeMember",
    "MergeMethod",
    "MergedParameter",
    "Parameter",
    "TensorSettings",
    "differences",
    "layout_of",
    "merge_members",
    "method_types",
    "register_method",
]

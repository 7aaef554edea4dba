"""Merge methods by the names that recipes have for them, and what their parameters are called here.

A method of mergekit that is not listed has no counterpart. All other methods of this package go by their own names,
with the fields of their dataclasses as parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from regmean_lab.merging import MergeMethod, method_types
from regmean_lab.merging.followed_by import SETTING as FOLLOWED
from regmean_lab.merging.free_weights import FreeWeights

NO_BASE, BASE, BASE_IF_GIVEN, BASE_IS_MEMBER, BASE_IS_FIRST = "none", "needed", "optional", "member", "first"
"""What ``base_model`` is to a method: nothing, what the models were trained from (always, or where it is given), one of
those that are merged, or the first of two."""

UNSUPPORTED = {
    "passthrough": "it stacks layers of models",
    "nearswap": "it has no counterpart",
    "arcee_fusion": "it has no counterpart",
    "ram": "it has no counterpart",
    "ramplus_tl": "it has no counterpart",
}
"""Methods of mergekit that are refused, and why."""

WITHOUT_EFFECT = ("int8_mask", "eps")
"""Parameters that concern how mergekit computes, not what: they are read and change nothing."""


@dataclass(frozen=True)
class KnownMethod:
    """A method as recipes name it.

    Attributes:
        method: name of ours.
        fixed: settings of ours that the name, or mergekit's defaults, stand for.
        shared: parameters of the merge, and the settings of ours that they are.
        per_model: parameters of each model, beside ``weight``, and the settings of ours that they are.
        base: what ``base_model`` is to it.
        free: whether weights may have any sign and sum; otherwise they are made to add up to 1.
        weighted: whether models have a weight.
        must: parameters that have one possible value, and that value.
        least: fewest models beside the base.
        most: most models beside the base.
        lists: parameters whose value is a list, not a gradient.
    """

    method: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    per_model: Mapping[str, str] = field(default_factory=dict)
    base: str = NO_BASE
    free: bool = True
    weighted: bool = True
    must: Mapping[str, Any] = field(default_factory=dict)
    least: int = 1
    most: int | None = None
    lists: tuple[str, ...] = ()

    @property
    def parameters(self) -> list[str]:
        """Names of everything that a recipe may set."""
        weight = ["weight"] if self.weighted else []
        return [*weight, *self.per_model, *self.shared, *self.must, *WITHOUT_EFFECT]


def _task_vectors(
    method: str, fixed: Mapping[str, Any], per_model: tuple[tuple[str, str], ...] = (), **others: Any
) -> KnownMethod:
    shared = {"lambda": "scaling", "normalize": "normalize", **others.pop("shared", {})}
    return KnownMethod(method, {"scaling": 1.0, **fixed}, shared, dict(per_model), base=BASE, **others)


_DENSITY = (("density", "density"),)
_RANDOM = {"rescale": "rescale", "seed": "seed"}
_EVEN = {"must": {"rescale": False}}

KNOWN: dict[str, KnownMethod] = {
    "linear": KnownMethod("simple", {"normalize": True}, {"normalize": "normalize"}),
    "slerp": KnownMethod("slerp", {}, {"t": "t"}, base=BASE_IS_FIRST, weighted=False, least=1, most=1),
    "nuslerp": KnownMethod(
        "nuslerp",
        {},
        {"nuslerp_flatten": "flatten", "nuslerp_row_wise": "by_column"},
        base=BASE_IF_GIVEN,
        least=2,
        most=2,
    ),
    "multislerp": KnownMethod("multislerp", {}, {"normalize_weights": "normalize"}, base=BASE_IF_GIVEN),
    "karcher": KnownMethod(
        "karcher",
        {"iterations": 10, "tolerance": 1e-5},
        {"max_iter": "iterations", "tol": "tolerance"},
        base=BASE_IS_MEMBER,
        weighted=False,
        least=2,
    ),
    "task_arithmetic": _task_vectors("task_arithmetic", {"normalize": False}, must={"density": 1.0, "rescale": False}),
    "ties": _task_vectors(
        "ties",
        {"normalize": True, "scope": "parameter", "density": 1.0},
        _DENSITY,
        shared={"scope": "scope"},
        **_EVEN,
    ),
    "dare_linear": _task_vectors(
        "dare", {"then": "linear", "normalize": False, "density": 1.0}, _DENSITY, shared=_RANDOM
    ),
    "dare_ties": _task_vectors("dare", {"then": "ties", "normalize": False, "density": 1.0}, _DENSITY, shared=_RANDOM),
    "della_linear": _task_vectors(
        "della",
        {"then": "linear", "normalize": False, "density": 1.0, "epsilon": 0.15},
        (*_DENSITY, ("epsilon", "epsilon")),
        shared=_RANDOM,
    ),
    "della": _task_vectors(
        "della",
        {"then": "ties", "normalize": True, "density": 1.0, "epsilon": 0.15},
        (*_DENSITY, ("epsilon", "epsilon")),
        shared=_RANDOM,
    ),
    "breadcrumbs": _task_vectors(
        "breadcrumbs",
        {"elect_signs": False, "normalize": False, "density": 1.0, "large": 0.01},
        (*_DENSITY, ("gamma", "large")),
        **_EVEN,
    ),
    "breadcrumbs_ties": _task_vectors(
        "breadcrumbs",
        {"elect_signs": True, "normalize": False, "density": 1.0, "large": 0.01},
        (*_DENSITY, ("gamma", "large")),
        **_EVEN,
    ),
    "sce": KnownMethod(
        "sce", {"density": 1.0, "scaling": 1.0}, {"select_topk": "density"}, base=BASE, weighted=False, least=2
    ),
    "model_stock": KnownMethod(
        "model_stock", {}, {"filter_wise": "by_row"}, base=BASE, weighted=False, free=False, least=2
    ),
}
"""Methods of mergekit by their names there."""

OTHER_NAMES = {"simple_average": "linear", "average": "linear", "ties_merging": "ties"}
"""Names that other programs have for them."""


def method_of(name: str, *, followed: bool = False) -> KnownMethod | None:
    """The method that a recipe names, or None.

    Args:
        name: the name.
        followed: whether steps follow the merge, which need a base.
    """
    known = _method_of(OTHER_NAMES.get(name, name))
    if known is None:
        return None
    base = BASE_IF_GIVEN if followed and known.base == NO_BASE else known.base
    return replace(known, shared={**known.shared, FOLLOWED: FOLLOWED}, lists=(*known.lists, FOLLOWED), base=base)


def _method_of(name: str) -> KnownMethod | None:
    if name in KNOWN:
        return KNOWN[name]
    if name not in method_types():
        return None
    own = method_types()[name]
    settings = {entry.name: entry.name for entry in fields(own) if entry.init}
    hidden = {FOLLOWED, "coefficients", "weights", "keep_layers", "merge_layers", "keep_top", "label_head", "parts"}
    shared = {key: value for key, value in settings.items() if key not in hidden}
    try:
        probe: MergeMethod | None = own()
    except TypeError:
        probe = None
    needed = probe is not None and probe.needs_base
    return KnownMethod(
        name,
        {},
        shared,
        base=BASE if needed else BASE_IF_GIVEN,
        free=issubclass(own, FreeWeights),
        least=1 if needed and issubclass(own, FreeWeights) else 2,
        lists=tuple(entry.name for entry in fields(own) if str(entry.type).startswith("list")),
    )


def names() -> list[str]:
    """All names that a recipe may give a method."""
    return sorted({*KNOWN, *OTHER_NAMES, *method_types()})

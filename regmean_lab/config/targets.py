"""Merge methods by the full name of their class, wherever on Python's path it lies: nothing registers them."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from regmean_lab.config.baselines import comparator_types
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.names import did_you_mean

if TYPE_CHECKING:
    from regmean_lab.merging import MergeMethod

TARGET = "_target_"
"""The key of such a method's settings that holds the class's name, as in Hydra."""


class TargetError(UserError):
    """A class that cannot be a method; the message says why."""


def is_target(option: str) -> bool:
    """Whether an option of the group ``method`` is the full name of a class."""
    return "." in option


def target_method(target: str) -> type[MergeMethod]:
    """The class of a full name, ``package.module.Class``.

    Its name as a method is its attribute ``name``, or else the class's own name. In this process it is registered under
    it from now on.

    Raises:
        TargetError: when there is no such class, or it is no merge method.
    """
    from regmean_lab.merging import MergeMethod, method_types, register_method  # imports torch

    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise TargetError(
            f"method={target}: module {module_name} cannot be imported: {type(error).__name__}: {error}; it must be "
            "installed, or its folder be on PYTHONPATH"
        ) from None
    kind: Any = getattr(module, name, None)
    methods = {own for own, other in vars(module).items() if inspect.isclass(other) and issubclass(other, MergeMethod)}
    candidates = sorted(methods - {MergeMethod.__name__})
    if kind is None:
        hint = did_you_mean(name, candidates) if candidates else "it has no merge method at all"
        raise TargetError(f"method={target}: there is no {name} in {module_name} ({module.__file__}); {hint}")
    if name not in methods:
        raise TargetError(f"method={target}: expected a class derived from regmean_lab.merging.MergeMethod")
    if "__dataclass_fields__" not in vars(kind):
        raise TargetError(f"method={target}: its settings are not known; write @dataclass above the class")
    if inspect.isabstract(kind):
        lacking = ", ".join(sorted(kind.__abstractmethods__))
        raise TargetError(f"method={target}: the class is abstract; it must define {lacking}")
    chosen = vars(kind).get("name", name)
    other = {**method_types(), **comparator_types()}.get(chosen, kind)
    if other is not kind:
        raise TargetError(
            f"method={target}: {other.__module__}.{other.__qualname__} is called {chosen!r}, too; give the class "
            "another name, or an attribute: name = ..."
        )
    register_method(chosen)(kind)
    return kind

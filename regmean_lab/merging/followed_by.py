"""Steps after a merge, whatever the method: ``method.followed_by=[svc,{lines:{alpha:0.3}}]``.

A step is one file in this package: a dataclass whose fields are its settings, made known by `register_step`. It is
given one merged parameter at a time, and what it was merged from.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from regmean_lab.utils.names import did_you_mean
from regmean_lab.utils.registry import Registry

SETTING = "followed_by"
"""The setting of methods that names steps."""

MEMBERS_OWN = "residual"
"""The step that leaves the merge as it is, and says what each member keeps beside it."""


@dataclass(frozen=True)
class Merged:
    """One merged parameter.

    Attributes:
        name: its name.
        value: its merged value, float32 or wider.
        given_base: its value in the model that the members were trained from, of the same shape, dtype and device; None
            where it has none, or is not known.
        mean: gives the mean of the members' values as ``method=simple`` merges them, of the same shape, dtype and
            device.
        members: number of members.
        member: gives a member's value by its number, likewise.
        weights: one a member; they add up to the number of members.
        transposed: of a linear layer's weight, whether it is stored as [in, out]; None for any other parameter.
        depth: how deep it lies: 0 in the first block of its stack and 1 in the last, 0 outside of blocks.
    """

    name: str
    value: Tensor
    given_base: Tensor | None
    mean: Callable[[], Tensor]
    members: int
    member: Callable[[int], Tensor]
    weights: Sequence[float]
    transposed: bool | None
    depth: float

    @property
    def base(self) -> Tensor:
        """Its value in the base model, for steps that need one."""
        if self.given_base is None:
            raise ValueError(f"{self.name} has no value in a base model")
        return self.given_base


@dataclass
class Step(ABC):
    """Base of all steps; its fields are its settings, all of them numbers."""

    name: ClassVar[str]
    needs_base: ClassVar[bool] = True
    """Whether it compares with the base model; then it leaves parameters, and rows, that this one lacks as they are."""

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        found = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                found.append(f"{entry.name}: expected a number, got {value!r}")
            elif entry.type in (int, "int") and not isinstance(value, int):
                found.append(f"{entry.name}: expected a whole number, got {value!r}")
        return found

    @abstractmethod
    def apply(self, part: Merged) -> Tensor:
        """The parameter's value after the step, of its shape."""


STEPS: Registry[Step] = Registry("step after a merge")
register_step = STEPS.register
"""Class decorator: make a step known under a name."""


def steps_of(given: Any) -> list[Step]:
    """The steps that a setting asks for and that change the merge, in order.

    Args:
        given: a name, a mapping from a name to settings, or a list of such; without `step_problems`.
    """
    return [STEPS[name](**settings) for name, settings in named_steps(given) if name != MEMBERS_OWN]


def steps_need_base(given: Any) -> bool:
    """Whether one of the steps that a setting asks for compares with the base model; with names that are none, too."""
    return any(STEPS[name].needs_base for name, _ in named_steps(given) if name in STEPS)


def step_problems(given: Any) -> list[str]:
    """What is wrong with a setting that asks for steps: one message each."""
    found = []
    names = [name for name, _ in named_steps(given)]
    if MEMBERS_OWN in names[:-1]:
        found.append(
            f"{SETTING}: {MEMBERS_OWN} is what members keep beside the finished merge; expected once, at the end"
        )
    for name, settings in named_steps(given):
        if name not in STEPS:
            found.append(f"{SETTING}: {name!r} is no step after a merge; {did_you_mean(str(name), STEPS)}")
            continue
        if not isinstance(settings, Mapping):
            found.append(f"{SETTING}.{name}: expected settings by name, got {settings!r}")
            continue
        own = [entry.name for entry in fields(STEPS[name])]
        unknown = [key for key in settings if key not in own]
        found += [f"{SETTING}.{name}.{key}: no such setting; {did_you_mean(str(key), own)}" for key in unknown]
        if not unknown:
            found += [f"{SETTING}.{name}.{problem}" for problem in STEPS[name](**settings).problems()]
    return found


def named_steps(given: Any) -> list[tuple[Any, Any]]:
    """Names and settings of the steps that a setting asks for, in order."""
    if given is None:
        return []
    pairs: list[tuple[Any, Any]] = []
    for entry in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
        pairs += entry.items() if isinstance(entry, Mapping) else [(entry, {})]
    return [(name, {} if settings is None else settings) for name, settings in pairs]

"""Settings of a recipe: one value for all tensors, one per name filter, or a gradient over the model's depth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from regmean_lab.checkpoints.recipe.located import Located
from regmean_lab.merging.depth import between, place_of
from regmean_lab.utils.names import did_you_mean

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Condition:
    """Values for the tensors whose names have a text in them.

    Attributes:
        values: one value, or anchors that are spread evenly from the first block to the last.
        filter: the text; None for all tensors.
        line: where it stands.
    """

    values: tuple[Scalar, ...]
    filter: str | None
    line: int

    def applies(self, name: str) -> bool:
        """Whether it is for a tensor of this name."""
        return self.filter is None or self.filter in name

    def at(self, depth: float) -> Scalar:
        """The value at a depth from 0 to 1: numbers between two anchors are interpolated."""
        lower, share = place_of(len(self.values), depth)
        if share == 0 or any(isinstance(value, bool | str) for value in self.values):
            return self.values[lower]
        return between([float(value) for value in self.values], depth)


@dataclass(frozen=True)
class Setting:
    """What a recipe says of one parameter of the method.

    Attributes:
        conditions: the first that applies to a tensor counts.
        line: where it stands.
    """

    conditions: tuple[Condition, ...]
    line: int

    def at(self, name: str, depth: float) -> Scalar | None:
        """The value for a tensor, or None where no condition applies to it."""
        for condition in self.conditions:
            if condition.applies(name):
                return condition.at(depth)
        return None

    @property
    def is_scalar(self) -> bool:
        """Whether all tensors have one value."""
        return self.conditions[0].filter is None and len(set(self.conditions[0].values)) == 1

    def idle_filters(self, names: Sequence[str]) -> list[Condition]:
        """Conditions whose filter is in no tensor's name."""
        return [one for one in self.conditions if one.filter is not None and not any(map(one.applies, names))]


def read_setting(part: Located, key: str, place: str, found: list[str]) -> Setting | None:
    """A setting from YAML; appends what is wrong with it.

    Args:
        part: what stands behind the key.
        key: the parameter's name.
        place: the file.
        found: problems.
    """
    if isinstance(part.value, dict):
        condition = _condition(part, key, place, found)
        return None if condition is None else Setting((condition,), part.line)
    if isinstance(part.value, list) and any(isinstance(entry.value, dict) for entry in part.value):
        conditions = [_condition(entry, key, place, found) for entry in part.value]
        known = tuple(condition for condition in conditions if condition is not None)
        return Setting(known, part.line) if len(known) == len(conditions) else None
    values = _values(part, key, place, found)
    return None if values is None else Setting((Condition(values, None, part.line),), part.line)


def _condition(part: Located, key: str, place: str, found: list[str]) -> Condition | None:
    if not isinstance(part.value, dict):
        values = _values(part, key, place, found)
        return None if values is None else Condition(values, None, part.line)
    unknown = [name for name in part.value if name not in ("filter", "value")]
    for name in unknown:
        hint = did_you_mean(name, ("filter", "value"))
        found.append(f"{place}:{part.keys[name]}: {key}: {name}: unknown key; {hint}")
    if "value" not in part.value:
        if not unknown:
            found.append(f"{place}:{part.line}: {key}: a filter without value")
        return None
    wanted = part.value.get("filter")
    text = None if wanted is None or wanted.value in (None, "*") else wanted.value
    if wanted is not None and text is not None and not isinstance(text, str):
        found.append(f"{place}:{wanted.line}: {key}: filter: expected a part of names of tensors, got {wanted.kind}")
        return None
    values = _values(part.value["value"], key, place, found)
    return None if values is None or unknown else Condition(values, text, part.line)


def _values(part: Located, key: str, place: str, found: list[str]) -> tuple[Scalar, ...] | None:
    entries = part.value if isinstance(part.value, list) else [part]
    if not entries or any(not isinstance(entry.value, bool | int | float | str) for entry in entries):
        found.append(f"{place}:{part.line}: {key}: expected a value, a list of anchors, or filters with values")
        return None
    return tuple(_number(entry.value) for entry in entries)


def _number(value: Scalar) -> Scalar:
    """YAML reads 1e-5 as a text; here it is the number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value):
        return float(value)
    return value

"""The merge that another method begins with: any other one, chosen by its name, with its own settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from regmean_lab.merging.base import MergeMethod, MethodInstance, method_types
from regmean_lab.merging.member_text import ReadsText
from regmean_lab.merging.parts import PER_MEMBER
from regmean_lab.utils.names import did_you_mean

SHARED = tuple(entry.name for entry in fields(MergeMethod))
"""Settings that every method has; the starting merge has those of the method that begins with it."""

TEXT = tuple(entry.name for entry in fields(ReadsText))
"""Settings of the text; a starting merge that reads some reads the same."""


def starting_merge(method: MergeMethod, name: str, settings: Mapping[str, Any]) -> MergeMethod:
    """The merge of a name, with settings of its own and those that every method has from another method.

    Args:
        method: the method that begins with it.
        name: the name; registered.
        settings: its own settings by name; valid ones.
    """
    kind = method_types()[name]
    shared = [*SHARED, *(TEXT if issubclass(kind, ReadsText) and isinstance(method, ReadsText) else ())]
    return kind(**settings, **{key: getattr(method, key) for key in shared})


def starting_problems(
    method: MergeMethod, name: str, settings: Mapping[str, Any], excluded: Sequence[str] = ()
) -> list[str]:
    """What is wrong with the choice of a starting merge and with its settings: messages that begin with the key.

    Args:
        method: the method that begins with it, whose settings ``start`` and ``start_settings`` these are.
        name: the name.
        settings: its own settings.
        excluded: names of methods that it cannot be.
    """
    known = {key: kind for key, kind in method_types().items() if key not in excluded}
    if name not in known:
        return [f"start: there is no merge method {name!r} to begin with; {did_you_mean(name, known)}"]
    kind = known[name]
    own = {entry.name for entry in fields(kind) if entry.init} - {*SHARED, *TEXT}
    hints = get_type_hints(kind)
    found = [
        f"start_settings.{key}: no setting of {name}; {did_you_mean(key, sorted(own)) if own else 'it has none'}"
        for key in settings
        if key not in own
    ]
    found += [
        f"start_settings.{key}: expected {_words(hints[key])}, got {value!r}"
        for key, value in settings.items()
        if key in own and not _is(value, hints[key])
    ]
    if found:
        return found
    told = starting_merge(method, name, settings).problems()
    if isinstance(method, ReadsText):
        text = method.text_problems()  # which the method itself tells
        told = [problem for problem in told if problem not in text]
    return [
        problem if re.split("[.:]", problem)[0] in (*SHARED, *TEXT) else f"start_settings.{problem}" for problem in told
    ]


def permuted(method: MethodInstance, order: Sequence[int]) -> MethodInstance:
    """A method for the same members in another order: what it says of each member goes with the member.

    Args:
        method: the method.
        order: the numbers of the members, in their new order.
    """

    def put_in_order(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {key: in_order(key, value) for key, value in settings.items()}

    def in_order(key: str, value: Any) -> Any:
        if key == "start_settings":
            return put_in_order(value)
        return [value[number] for number in order] if key in PER_MEMBER and value is not None else value

    changed = put_in_order({key: getattr(method, key) for key in PER_MEMBER if hasattr(method, key)})
    changed["parts"] = {part: put_in_order(settings) for part, settings in method.parts.items()}
    if hasattr(method, "start_settings"):
        changed["start_settings"] = put_in_order(method.start_settings)
    if candidates := getattr(method, "candidates", None):
        changed["candidates"] = [
            {name: settings and put_in_order(settings) for name, settings in entry.items()}
            if isinstance(entry, Mapping)
            else entry
            for entry in candidates
        ]
    return replace(method, **changed)


def _is(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration has a setting's type."""
    if get_origin(hint) in (Union, UnionType):
        return any(_is(value, one) for one in get_args(hint))
    if hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    origin = get_origin(hint) or hint
    if origin is list:
        (inner,) = get_args(hint) or (Any,)
        return isinstance(value, list) and all(_is(one, inner) for one in value)
    return hint is Any or not isinstance(origin, type) or isinstance(value, origin)


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(one) for one in get_args(hint))
    if get_origin(hint) is list:
        return "a list"
    names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    return names.get(hint, "a mapping")

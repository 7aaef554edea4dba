"""Settings of parts of a model, in place of the method's own: ``method.parts.PART.SETTING``.

A part is a block of layers, a module, or every parameter. A number may change over the depth of the model, as values of
a recipe do: a list is anchors, spread evenly from the first block to the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from regmean_lab.merging.depth import between, block_of, depths, last_blocks
from regmean_lab.merging.partial import covered
from regmean_lab.utils.names import did_you_mean

EVERY = "every"
"""The part that all parameters belong to; what other parts say goes before it."""

PER_MEMBER = ("weights", "coefficients")
"""Settings that are one number a member, each of which may be anchors."""

_NUMBERED = re.compile(r"block_(\d+)")

Parts = Mapping[str, Any]


def belongs(name: str, part: str) -> bool:
    """Whether a parameter belongs to a part.

    Args:
        name: the parameter's name.
        part: ``every``; ``block_N``, the N-th block, from 0, of every stack of numbered blocks; or a module's or
            parameter's name, whole or its part between two dots, or a pattern of it (``*``, ``?``).
    """
    if part == EVERY:
        return True
    if (match := _NUMBERED.fullmatch(part)) is not None:
        block = block_of(name)
        return block is not None and block[1] == int(match[1])
    return covered(name, [part]) or any(fnmatchcase(piece, part) for piece in name.split("."))


def part_problems(
    parts: Parts, numbers: Collection[str], whole: Collection[str], check: Callable[[dict[str, Any]], list[str]]
) -> list[str]:
    """What is wrong with parts, whatever the model: one message each.

    Args:
        parts: the parts.
        numbers: settings that a part may have.
        whole: numbers that a method reads for the whole model, so that a part may not have them.
        check: gives what is wrong with the method's settings, given those that are other ones.
    """
    found = []
    for part, settings in parts.items():
        if not isinstance(settings, Mapping):
            found.append(f"parts.{part}: expected settings of the method by name, got {settings!r}")
            continue
        wrong = [problem for key, value in settings.items() if (problem := _problem(key, value, numbers, whole))]
        found += [f"parts.{part}.{problem}" for problem in wrong]
        if not wrong:
            told = [problem for depth in _breaks(settings) for problem in check(_at(settings, depth))]
            found += [f"parts.{part}.{problem}" for problem in dict.fromkeys(told)]
    return found


def name_problems(parts: Parts, names: Sequence[str]) -> list[str]:
    """What is wrong with parts of a model: those that nothing belongs to, and parameters that two parts claim.

    Args:
        parts: the parts.
        names: the parameters of the model.
    """
    found = []
    for part in parts:
        if not any(belongs(name, part) for name in names):
            found.append(f"parts.{part}: no module or parameter matches; {_there_are(names)}")
    claims: dict[str, str] = {}
    for name in names:
        for key in {key for settings in parts.values() for key in settings}:
            owners = [part for part in _own(parts, name) if key in parts[part]]
            if len(owners) > 1:
                claims.setdefault(f"parts: {' and '.join(owners)} both have {key} for", name)
    return found + [f"{claim} {name}; leave it out of one" for claim, name in claims.items()]


def values_by_name(parts: Parts, names: Sequence[str]) -> Callable[[str], dict[str, Any]]:
    """The settings that parts have for each parameter of a model.

    Args:
        parts: parts without problems.
        names: the parameters of the model.

    Returns:
        By a parameter's name, numbers by setting; those of each member are lists. Empty outside of all parts.
    """
    places = depths(names)

    def of(name: str) -> dict[str, Any]:
        chosen = {}
        for part in [*([EVERY] if EVERY in parts else []), *_own(parts, name)]:
            chosen.update(_at(parts[part], places[name]))
        return chosen

    return of


def missing_blocks(parts: Parts, names: Iterable[str]) -> list[str]:
    """Which numbered blocks a model does not have."""
    last = max(last_blocks(names).values(), default=-1)
    numbered = {part: int(match[1]) for part in parts if (match := _NUMBERED.fullmatch(part)) is not None}
    reach = f"block_0 to block_{last}" if last >= 0 else "no numbered blocks"
    return [
        f"parts.{part}: the model has no such block; it has {reach}"
        for part, number in numbered.items()
        if number > last
    ]


def lengths(parts: Parts) -> list[tuple[str, int]]:
    """How many members each setting with a number a member has them for."""
    return [
        (f"parts.{part}.{key}", len(settings[key]))
        for part, settings in parts.items()
        if isinstance(settings, Mapping)
        for key in PER_MEMBER
        if isinstance(settings.get(key), Sequence)
    ]


def _own(parts: Parts, name: str) -> list[str]:
    return [part for part in parts if part != EVERY and belongs(name, part)]


def _problem(key: str, value: Any, numbers: Collection[str], whole: Collection[str]) -> str | None:
    if key in whole:
        return f"{key}: it is one for the whole model"
    if key not in numbers:
        return f"{key}: no number of this method that a part may have; {did_you_mean(key, sorted(numbers))}"
    if key not in PER_MEMBER:
        return None if _is_value(value) else f"{key}: expected a number, or a list of anchors, got {value!r}"
    if not isinstance(value, Sequence) or isinstance(value, str) or not value or not all(map(_is_value, value)):
        return f"{key}: expected a list with a number, or a list of anchors, of each member, got {value!r}"
    return None


def _is_value(value: Any) -> bool:
    entries = [value] if not isinstance(value, Sequence) else value
    return bool(entries) and all(isinstance(entry, int | float) and not isinstance(entry, bool) for entry in entries)


def _at(settings: Mapping[str, Any], depth: float) -> dict[str, Any]:
    return {
        key: [_number(one, depth) for one in value] if key in PER_MEMBER else _number(value, depth)
        for key, value in settings.items()
    }


def _number(value: Any, depth: float) -> float:
    return between(value, depth) if isinstance(value, Sequence) else float(value)


def _breaks(settings: Mapping[str, Any]) -> list[float]:
    """The depths of all anchors: what is right there is right between them."""
    lists = [one for key, value in settings.items() for one in (value if key in PER_MEMBER else [value])]
    counts = {len(one) for one in lists if isinstance(one, Sequence)} - {1}
    return sorted({0.0, *(number / (count - 1) for count in counts for number in range(count))})


def _there_are(names: Sequence[str]) -> str:
    last = max(last_blocks(names).values(), default=None)
    blocks = [] if last is None else [f"blocks block_0 to block_{last}"]
    outside = dict.fromkeys(name.rpartition(".")[0] or name for name in names if block_of(name) is None)
    return f"there are {' and '.join([*blocks, 'modules such as ' + ', '.join([*outside][:4])])}"

"""What the report keeps of a merge's diagnostics: a few numbers a layer, as compactly as thousands of results need."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from regmean_lab.utils.checks import is_number

SINGLE = ("condition", "moved")
BY_MEMBER = ("conditions", "distances")


@dataclass(frozen=True)
class Layers:
    """Diagnostics of one merge; see :class:`regmean_lab.merging.parameters.LayerDiagnostics`.

    Attributes:
        names: of the layers, in the order of the model.
        single: ``condition`` and ``moved``, one number a layer; NaN where there is none.
        by_member: ``conditions`` and ``distances``, by member one number a layer.
    """

    names: tuple[str, ...]
    single: Mapping[str, Sequence[float]]
    by_member: Mapping[str, Mapping[str, Sequence[float]]]


def layers_of(diagnostics: Any) -> Layers | None:
    """A result's diagnostics, of which what is not as a merge writes it is left out; None where nothing is left."""
    rows = [row for row in diagnostics if isinstance(row, Mapping) and isinstance(row.get("layer"), str)]
    if not rows:
        return None
    names = _shared(tuple(row["layer"] for row in rows))
    single = {key: _numbers(row.get(key) for row in rows) for key in SINGLE}
    by_member = {}
    for key in BY_MEMBER:
        parts = [row[key] if isinstance(row.get(key), Mapping) else {} for row in rows]
        members = dict.fromkeys(str(member) for part in parts for member in part)
        by_member[key] = {member: _numbers(part.get(member) for part in parts) for member in members}
    return Layers(names, single, by_member)


@cache
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names, once in memory for all results that have them."""
    return names


def _numbers(values: Iterable[Any]) -> array[float]:
    return array("f", [float(value) if is_number(value) else math.nan for value in values])

"""What a search varies: settings with an interval, a range or choices, in Hydra's syntax of overrides.

``method.off_diagonal=interval(0,1)``, ``training.learning_rate=tag(log,interval(1e-5,1e-3))``,
``method.then=choice(linear,ties)``, ``method.keep_top=range(0,4)``, ``training.epochs=int(interval(1,5))``. A number at
the end of a key is a place in a list: ``method.weights.0=interval(0,1) method.weights.1=interval(0,1)``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

SEARCHED = ("method.", "training.", "statistics.")
"""What keys begin with that a search chooses among; all others with several values are searches of their own."""

COEFFICIENTS = "coefficients"
"""Lists whose numbers add up to 1: what is drawn is divided by its sum."""

DIGITS = 6
"""Significant digits of a number that is drawn, so that people can read and repeat it."""

PLACE = re.compile(r"\.(\d+)$")
"""The end of a key that is a place in a list."""


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``.

    Attributes:
        low: the smallest.
        high: the largest.
        whole: whole numbers only.
        log: drawn evenly on a logarithmic scale.
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def text(self, value: float) -> str:
        """A value as an override has it."""
        if self.whole:
            return str(int(value))
        rounded = float(f"{value:.{DIGITS}g}")
        return repr(min(max(rounded, self.low), self.high))

    @property
    def tried(self) -> list[str]:
        """The ends, which are checked before a search."""
        return [self.text(self.low), self.text(self.high)]


@dataclass(frozen=True)
class Values:
    """Values that are listed, as texts.

    Attributes:
        texts: the values.
        ordered: whether neighbours are alike, as in a range of numbers.
    """

    texts: tuple[str, ...]
    ordered: bool = False

    def text(self, value: float) -> str:
        """The value of a number, from 0."""
        return self.texts[int(value)]

    @property
    def tried(self) -> list[str]:
        """All values, which are checked before a search."""
        return list(self.texts)


@dataclass(frozen=True)
class Dimension:
    """One setting that a search varies."""

    key: str
    domain: Interval | Values

    @property
    def listed(self) -> tuple[str, int] | None:
        """The list and the place in it, where the setting is one number of a list."""
        match = PLACE.search(self.key)
        return None if match is None else (self.key[: match.start()], int(match[1]))

    @property
    def middle(self) -> str:
        """A value that is neither end."""
        if isinstance(self.domain, Values):
            return self.domain.texts[len(self.domain.texts) // 2]
        return self.domain.text((self.domain.low + self.domain.high) / 2)


@dataclass(frozen=True)
class Space:
    """All settings that a search varies."""

    dimensions: tuple[Dimension, ...]

    def overrides(self, values: Mapping[str, float]) -> list[str]:
        """The overrides of a trial.

        Args:
            values: by key, a number of an interval, or the number of one of listed values.
        """
        return self._assembled({part.key: part.domain.text(values[part.key]) for part in self.dimensions})

    def tried(self) -> list[list[str]]:
        """Overrides that are checked before a search, those of one setting each: its ends or its values."""
        single = [
            [f"{part.key}={text}" for text in part.domain.tried] for part in self.dimensions if part.listed is None
        ]
        lists = self._assembled({part.key: part.middle for part in self.dimensions if part.listed is not None})
        return [*single, *([text] for text in lists)]

    @property
    def size(self) -> int | None:
        """How many different trials there are; None with an interval."""
        domains = [part.domain for part in self.dimensions]
        counts = [len(domain.texts) for domain in domains if isinstance(domain, Values)]
        return math.prod(counts) if len(counts) == len(domains) else None

    def problems(self) -> list[str]:
        """What is wrong with the space, whatever its settings are."""
        found, places = [], _places(self.dimensions)
        for part in self.dimensions:
            domain = part.domain
            if isinstance(domain, Interval) and domain.low >= domain.high:
                found.append(f"{part.key}: expected an interval from a smaller number to a larger one")
            elif isinstance(domain, Interval) and domain.log and domain.low <= 0:
                found.append(f"{part.key}: a logarithmic scale begins above 0, got {domain.low:g}")
            elif (own := part.listed) is not None and own[0].endswith(COEFFICIENTS) and _least(domain) < 0:
                found.append(f"{part.key}: expected numbers of at least 0")
        for key, numbers in places.items():
            if sorted(numbers) != list(range(len(numbers))):
                lacking = min(set(range(max(numbers) + 1)) - set(numbers))
                found.append(
                    f"{key}: all numbers of a list are searched, from {key}.0 on; {key}.{lacking} is not given"
                )
        return found

    def _assembled(self, texts: Mapping[str, str]) -> list[str]:
        """Overrides, those of one list together."""
        lists = _places([part for part in self.dimensions if part.key in texts])
        single = [f"{part.key}={texts[part.key]}" for part in self.dimensions if part.key in texts and not part.listed]
        return [*single, *(f"{key}=[{','.join(_numbers(key, places, texts))}]" for key, places in lists.items())]


def is_searched(override: Override) -> bool:
    """Whether a search chooses among the values of an override."""
    return override.is_sweep_override() and override.key_or_group.startswith(SEARCHED)


def space_of(grid: Iterable[Override]) -> tuple[Space, list[Override]]:
    """What of a grid is searched, and the other parameters."""
    searched, others = [], []
    for override in grid:
        if is_searched(override):
            searched.append(Dimension(override.key_or_group, _domain(override)))
        else:
            others.append(override)
    return Space(tuple(searched)), others


def _domain(override: Override) -> Interval | Values:
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return Interval(value.start, value.end, whole, "log" in value.tags)
    return Values(tuple(override.sweep_string_iterator()), isinstance(value, RangeSweep))


def _places(dimensions: Iterable[Dimension]) -> dict[str, list[int]]:
    """The places in each list that are searched."""
    found: dict[str, list[int]] = {}
    for key, place in filter(None, (part.listed for part in dimensions)):
        found.setdefault(key, []).append(place)
    return found


def _numbers(key: str, places: Sequence[int], texts: Mapping[str, str]) -> list[str]:
    drawn = [texts[f"{key}.{place}"] for place in sorted(places)]
    if not key.endswith(COEFFICIENTS):
        return drawn
    values = list(map(float, drawn))
    total = sum(values) or 1.0
    shares = [round(value / total, DIGITS) for value in values[:-1]]
    if sum(values) == 0:
        shares = [round(1 / len(values), DIGITS)] * (len(values) - 1)
    return [repr(share) for share in [*shares, max(0.0, round(1 - sum(shares), DIGITS))]]


def _least(domain: Interval | Values) -> float:
    if isinstance(domain, Interval):
        return domain.low
    numbers = [float(text) for text in domain.texts if re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", text)]
    return min(numbers, default=0.0)


def product_of(space: Space) -> list[dict[str, float]]:
    """All trials of a space without intervals, the last setting varying fastest."""
    listed = [range(len(part.domain.texts)) for part in space.dimensions if isinstance(part.domain, Values)]
    keys = [part.key for part in space.dimensions]
    return [dict(zip(keys, map(float, numbers), strict=True)) for numbers in itertools.product(*listed)]

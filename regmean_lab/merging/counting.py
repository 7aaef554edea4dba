"""Values at given places of an ascending order, found by counting: one piece of the values is in memory at a time.

Bit patterns of numbers that are not negative have the order of integers. Counts of their upper sixteen bits tell in
which of 65,536 bins a place lies, counts of the next sixteen bits of the values of that bin alone where in it, and so
on: two passes over the values for float32, four for float64. The value found is exact.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

DIGIT = 16
"""Bits that a pass decides."""

BINS = 1 << DIGIT

Found = TypeVar("Found")


class Each(Protocol):
    """Goes over the pieces."""

    def __call__(self, look: Callable[[Any], Found], /) -> Iterator[Found]:
        """What a function finds in each piece, in order."""


@dataclass(frozen=True)
class Cut:
    """A place in the ascending order of values, in which equal ones have the order of their indices.

    Attributes:
        value: the value at the place.
        index: values equal to it with a lower index come before the place.
    """

    value: float
    index: int = 0

    def before(self, values: Tensor, start: int = 0) -> Tensor:
        """Which values come before the place, bool, of their shape.

        Args:
            values: a piece of the values.
            start: the index of the first.
        """
        if self.index <= start:
            return values < self.value
        if self.index >= start + values.numel():
            return values <= self.value
        indices = torch.arange(start, start + values.numel(), device=values.device).reshape(values.shape)
        return (values < self.value) | ((values == self.value) & (indices < self.index))


@dataclass
class _Search:
    """The search of one place.

    Attributes:
        number: of the values among those that are searched together.
        left: how many of the values that begin with the known bits come before the place.
        prefix: the known bits.
    """

    number: int
    left: int
    prefix: int = 0

    def go_on(self, counts: Tensor) -> None:
        """Decide the next bits by the counts of each of their values."""
        upto = counts.cumsum(0)
        digit = int(torch.searchsorted(upto, self.left, right=True))
        self.left -= int(upto[digit - 1]) if digit else 0
        self.prefix = self.prefix << DIGIT | digit


class _Counts:
    """Counts of values by their bits, which several threads add to: in whatever order, the sums are the same."""

    def __init__(self) -> None:
        self.of: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def add(self, key: int, digits: Tensor) -> None:
        """Count values.

        Args:
            key: what they are counted for.
            digits: sixteen bits of each value.
        """
        counts = torch.bincount(digits, minlength=BINS).cpu()
        with self._lock:
            self.of[key] = self.of[key].add_(counts) if key in self.of else counts


def cuts(
    each: Each,
    values: Callable[[Any], Sequence[Tensor]],
    places: Callable[[int, int, int], Sequence[int]],
    start: Callable[[Any], int] | None = None,
) -> list[list[Cut]]:
    """Values at places of the ascending orders of several sets of numbers.

    Args:
        each: goes over the pieces; several times, always in the same order.
        values: the numbers of each set in a piece, float32 or float64 and at least 0. The sets are as many in all
            pieces.
        places: the places wanted, from 0 to the number of values, by the number of the set, how many values it has
            and how many of them are not zero. Everything comes before the last place, and nothing before the first.
        start: the index of a piece's first value; None where it does not matter which of equal values come first.

    Returns:
        For each set, the cut at each of its places.
    """
    counted, nonzero, sizes = _Counts(), list[Tensor](), set[int]()

    def look(piece: Any) -> tuple[Tensor, int]:
        sets = [_bits(part) for part in values(piece)]
        size = sets[0].element_size() * 8
        for number, bits in enumerate(sets):
            counted.add(number, bits >> (size - DIGIT))
        return torch.stack([torch.count_nonzero(bits).cpu() for bits in sets]), size

    for found, size in each(look):
        nonzero.append(found)
        sizes.add(size)
    if not sizes:
        return []
    (size,) = sizes
    totals = [int(counted.of[number].sum()) for number in range(len(counted.of))]
    wanted = [
        places(number, total, int(varied))
        for number, (total, varied) in enumerate(zip(totals, torch.stack(nonzero).sum(0), strict=True))
    ]
    searches = {
        (number, place): _Search(number, place)
        for number, own in enumerate(wanted)
        for place in own
        if 0 < place < totals[number] or (place == 0 < totals[number] and start is None)
    }
    active = list(searches.values())
    for search in active:
        search.go_on(counted.of[search.number])
    for shift in range(size - 2 * DIGIT, -1, -DIGIT):
        _next_pass(each, values, active, shift)
    indices = {} if start is None else _indices(each, values, start, active)

    def cut(number: int, place: int) -> Cut:
        if (search := searches.get((number, place))) is not None:
            return Cut(_number(search.prefix, size), indices.get(id(search), 0))
        return Cut(math.inf if place else -1.0)

    return [[cut(number, place) for place in own] for number, own in enumerate(wanted)]


def magnitude_threshold(vectors: Callable[[], Iterable[Tensor]], density: float) -> float:
    """The smallest of the ``density`` largest magnitudes of a vector in parts; one part is in memory at a time.

    Args:
        vectors: gives the parts; called twice. Magnitudes are rounded to float32.
        density: share of all elements, above 0.
    """
    ((cut,),) = cuts(
        lambda look: map(look, vectors()),
        lambda part: [part.detach().abs().float()],
        lambda _, total, __: [threshold_place(total, density)],
    )
    return cut.value


def threshold_place(total: int, density: float) -> int:
    """Where, in the ascending order of magnitudes, the smallest of the ``density`` largest lies."""
    return total - max(1, math.ceil(density * total - 1e-9))


def _bits(values: Tensor) -> Tensor:
    """The bit patterns of numbers as whole numbers, a vector."""
    if values.device.type == "mps":
        values = values.cpu()
    return values.detach().flatten().view(torch.int32 if values.dtype == torch.float32 else torch.int64)


def _next_pass(each: Each, values: Callable[[Any], Sequence[Tensor]], searches: Sequence[_Search], shift: int) -> None:
    """Decide the bits from ``shift`` on of all searches."""
    if not searches:
        return

    counted = _Counts()

    def look(piece: Any) -> None:
        sets = [_bits(part) for part in values(piece)]
        for key, search in enumerate(searches):
            bits = sets[search.number]
            counted.add(key, (bits[bits >> (shift + DIGIT) == search.prefix] >> shift) & (BINS - 1))

    for _ in each(look):
        pass
    for key, search in enumerate(searches):
        search.go_on(counted.of[key])


def _indices(
    each: Each,
    values: Callable[[Any], Sequence[Tensor]],
    start: Callable[[Any], int],
    searches: Sequence[_Search],
) -> dict[int, int]:
    """By the identity of a search, the index of the value at its place, where equal ones come before it."""
    open_ones = [search for search in searches if search.left]
    if not open_ones:
        return {}

    def look(piece: Any) -> list[Tensor]:
        sets, begin = values(piece), start(piece)
        return [(_bits(sets[search.number]) == search.prefix).nonzero().flatten().cpu() + begin for search in open_ones]

    found: dict[int, int] = {}
    seen = [0] * len(open_ones)
    for listed in each(look):
        for number, (search, indices) in enumerate(zip(open_ones, listed, strict=True)):
            place = search.left - seen[number]
            if id(search) not in found and place < len(indices):
                found[id(search)] = int(indices[place])
            seen[number] += len(indices)
        if len(found) == len(open_ones):
            break
    return found


def _number(pattern: int, bits: int) -> float:
    """The number that a bit pattern stands for."""
    if bits == 32:
        return float(torch.tensor(pattern, dtype=torch.int32).view(torch.float32))
    return float(torch.tensor(pattern, dtype=torch.int64).view(torch.float64))

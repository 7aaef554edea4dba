"""Histograms of texts: how long they are, and, of pairs of texts, how the two are related."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, takewhile

import torch
from torch import Tensor

from .token_counts import LONGEST_TEXT, PAIR_HISTOGRAMS, TENTHS

LENGTH_EDGES = tuple(takewhile(lambda edge: edge < LONGEST_TEXT, chain((1,), *((2 << k, 3 << k) for k in range(24)))))
"""First lengths of the ranges of the histogram: powers of two and what is half-way between; the same for all data."""

NOISE_DEVIATIONS = 3
"""A noisy histogram tells nothing whose sum is within so many standard deviations of the noise in it."""


def empty(related: bool) -> dict[str, Tensor]:
    """The histograms of no text, int64 [ranges] each: ``lengths`` and, if ``related``, those of `PAIR_HISTOGRAMS`."""
    found = {"lengths": torch.zeros(len(LENGTH_EDGES), dtype=torch.int64)}
    if related:
        found.update({name: torch.zeros(TENTHS, dtype=torch.int64) for name in PAIR_HISTOGRAMS})
    return found


def ranges_of(ids: Tensor, real: Tensor, counted: Tensor, frame: Sequence[int]) -> dict[str, Tensor]:
    """In which range of each histogram each example lies, int64 [examples]; -1 where it is in none.

    Args:
        ids: token ids [examples, tokens].
        real: which of them are no padding, bool, of the same shape.
        counted: which of them count, bool, of the same shape.
        frame: what the tokenizer puts around two texts; empty leaves histograms of pairs out.
    """
    lengths = counted.sum(1)
    found = {"lengths": torch.bucketize(lengths, torch.tensor(LENGTH_EDGES), right=True) - 1}
    if frame:
        found.update(_pair_ranges(ids, real, counted, frame))
    return found


def add_(sums: Mapping[str, Tensor], ranges: Mapping[str, Tensor], times: int = 1) -> None:
    """Count examples by their ranges, ``times`` (1 or -1) for each; each is in one range of a histogram, or in none."""
    for name, table in sums.items():
        table.add_(torch.bincount(ranges[name][ranges[name] >= 0], minlength=len(table)), alpha=times)


def told_lengths(lengths: Tensor, told: Tensor) -> Tensor:
    """The ranges of lengths that are told, as `TokenCounts` has them."""
    ends = [*LENGTH_EDGES[1:], LONGEST_TEXT]
    numbers = told.nonzero().flatten().tolist()
    return torch.tensor([[LENGTH_EDGES[number], ends[number] - 1, int(lengths[number])] for number in numbers])


def in_percent(table: Tensor) -> Tensor:
    """Shares of a histogram in whole percent, int64; all 0 where it is empty.

    Their sum tells nothing of the ranges that were left out, as that of numbers of pairs does beside another histogram.
    """
    total = int(table.sum())
    return (table * 100 / total).round().long() if total else table


def without_noise(noisy: Tensor, deviation: float) -> Tensor:
    """The histogram without negative numbers that is nearest to a noisy one and has its sum: float64, or all 0.

    Cutting negative numbers off alone would add to the sum (Hay et al., PVLDB 2010, on what can be made of noisy
    counts without spending any more of ε). It is all 0 where the sum can be noise alone.

    Args:
        noisy: counts with noise, int64 [ranges].
        deviation: standard deviation of the noise on each.
    """
    values, total = noisy.double(), float(noisy.sum())
    if total <= NOISE_DEVIATIONS * deviation * len(noisy) ** 0.5:
        return torch.zeros_like(values)
    falling = values.sort(descending=True).values
    shifts = (falling.cumsum(0) - total) / torch.arange(1, len(noisy) + 1)
    return (values - shifts[(falling > shifts).nonzero().max()]).clamp(min=0)


def _pair_ranges(ids: Tensor, real: Tensor, counted: Tensor, frame: Sequence[int]) -> dict[str, Tensor]:
    """Those of pairs: examples that are framed as pairs are, and in which each text has a token that counts.

    An example with more of the tokens that frame pairs has some of them in a text: it is left out.
    """
    framing = real & torch.isin(ids, torch.tensor(frame))
    words = real & ~framing
    begins = words & ~torch.nn.functional.pad(words, (1, 0))[:, :-1]
    text = begins.cumsum(1)
    first, second = counted & words & (text == 1), counted & words & (text == 2)
    keys = ids + torch.arange(len(ids))[:, None] * (ids.max() + 1)
    shared = (second & torch.isin(keys, keys[first])).sum(1)
    in_first, in_second = first.sum(1), second.sum(1)
    both = (in_first > 0) & (in_second > 0) & (begins.sum(1) == 2) & (framing.sum(1) == len(frame))
    return {
        "first_shares": torch.where(both, _tenths(in_first, in_first + in_second), -1),
        "overlaps": torch.where(both, _tenths(shared, in_second), -1),
    }


def _tenths(part: Tensor, whole: Tensor) -> Tensor:
    """The numbers of the tenths in which shares lie, from 0; all of it is in the last one."""
    return (part * TENTHS // whole.clamp(min=1)).clamp(max=TENTHS - 1)

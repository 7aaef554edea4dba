"""Histograms of texts: how long they are, and, of pairs of texts, how the two are related."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, takewhile

import torch
from torch import Tensor

from .token_counts import LONGEST_TEXT, PAIR_HISTOGRAMS, TENTHS

LENGTH_EDGES = tuple(takewhile(lambda edge: edge < LONGEST_TEXT, chain((1,), *((2 << k, 3 << k) for k in range(24)))))
"""First lengths of the ranges of the histogram: powers of two and what is half-way between; the same for all data."""


def empty(texts_per_example: int) -> dict[str, Tensor]:
    """The histograms of no text, int64 [ranges] each: ``lengths``, and of pairs those of `PAIR_HISTOGRAMS`."""
    found = {"lengths": torch.zeros(len(LENGTH_EDGES), dtype=torch.int64)}
    if texts_per_example == 2:
        found.update({name: torch.zeros(TENTHS, dtype=torch.int64) for name in PAIR_HISTOGRAMS})
    return found


def add_(sums: Mapping[str, Tensor], ids: Tensor, counted: Tensor, words: Tensor, times: int = 1) -> None:
    """Count a batch, ``times`` (1 or -1) for each example; in each histogram an example is counted once or not at all.

    Args:
        sums: the histograms, from `empty`.
        ids: token ids [examples, tokens].
        counted: which of them count, bool, of the same shape.
        words: which of them are neither padding nor what a tokenizer puts around texts, bool, of the same shape.
        times: added for each.
    """
    sums["lengths"].add_(_lengths(counted), alpha=times)
    if PAIR_HISTOGRAMS[0] in sums:
        for name, shares in zip(PAIR_HISTOGRAMS, _pair_shares(ids, counted, words), strict=True):
            sums[name].add_(torch.bincount(shares, minlength=TENTHS), alpha=times)


def told_ranges(lengths: Tensor, told: Tensor) -> Tensor:
    """The ranges of lengths that are told, as `TokenCounts` has them."""
    ends = [*LENGTH_EDGES[1:], LONGEST_TEXT]
    numbers = told.nonzero().flatten().tolist()
    return torch.tensor([[LENGTH_EDGES[number], ends[number] - 1, int(lengths[number])] for number in numbers])


def _lengths(counted: Tensor) -> Tensor:
    """Examples by ranges of lengths, int64; those without any token that counts are left out."""
    lengths = counted.sum(1)
    ranges = torch.bucketize(lengths[lengths > 0], torch.tensor(LENGTH_EDGES), right=True) - 1
    return torch.bincount(ranges, minlength=len(LENGTH_EDGES))


def _pair_shares(ids: Tensor, counted: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Of pairs with tokens in both texts, the tenths of the two histograms: int64 [pairs] each."""
    begins = words & ~torch.nn.functional.pad(words, (1, 0))[:, :-1]
    text = begins.cumsum(1)
    first, second = counted & (text == 1), counted & (text > 1)
    shared = torch.tensor(
        [int(torch.isin(row[own], row[before]).sum()) for row, before, own in zip(ids, first, second, strict=True)],
        dtype=torch.int64,
    )
    in_first, in_second = first.sum(1), second.sum(1)
    both = (in_first > 0) & (in_second > 0)
    return _tenths(in_first[both], (in_first + in_second)[both]), _tenths(shared[both], in_second[both])


def _tenths(part: Tensor, whole: Tensor) -> Tensor:
    """The numbers of the tenths in which shares lie, from 0; all of it is in the last one."""
    return (part * TENTHS // whole).clamp(max=TENTHS - 1)

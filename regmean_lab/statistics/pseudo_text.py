"""Pseudo-text: sentences drawn from published counts of tokens, in place of a member's own.

A sentence has a length from the histogram of lengths, and tokens that are drawn independently, as often as they were
counted; or, where pairs were counted, each by the one before it (a Markov chain of first order). All choices come from
:meth:`random.Random.random`, whose sequence for a seed Python guarantees.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch

from .errors import StatisticsError
from .token_counts import MappedCounts, TokenCounts

FEW_TOKENS = 100
"""Fewer tokens than this make poor pseudo-text, see docs/methods_with_text.md."""


class PseudoText:
    """Sentences by number: the same for the same counts, seed and number, so that fewer are part of more.

    Args:
        counts: the counts, in the ids of the model's vocabulary.
        seed: determines the sentences.
        longest: most tokens of one, special ones not among them; None cuts none.

    Raises:
        StatisticsError: for counts from which nothing can be drawn.
    """

    def __init__(self, counts: MappedCounts, seed: int, longest: int | None = None) -> None:
        self.seed = seed
        self.parts = counts.counts.parts
        if longest is not None and longest < self.parts:
            raise StatisticsError(f"no room for pseudo-text in {longest} tokens")
        if faults := counts.counts.faults():
            raise StatisticsError(f"no pseudo-text can be drawn: {'; '.join(faults)}")
        table = counts.counts.counts.to(torch.int64) * (torch.tensor(counts.ids) >= 0)
        if int(table.sum()) == 0:
            raise StatisticsError("no pseudo-text can be drawn: no token is known")
        self._ids = counts.ids
        self._tokens = [_Choice(row) for row in table.tolist()]
        self._labels = _Choice([choice.total for choice in self._tokens])
        self._ranges = [(first, last) for first, last, _ in counts.counts.lengths.tolist()]
        self._lengths = _Choice(counts.counts.lengths[:, 2].tolist())
        self._longest = longest
        self._following: dict[int, tuple[list[int], _Choice]] = {}
        if counts.counts.pairs is not None:
            self._following = _following(counts)

    def parts_of(self, number: int) -> list[list[int]]:
        """The token ids of sentence ``number`` (from 0), without special tokens; of a pair, those of both texts."""
        draw = random.Random(f"pseudo-text {self.seed} {number}").random
        tokens = self._tokens[self._labels(draw())]
        first, last = self._ranges[self._lengths(draw())]
        length = max(first + int(draw() * (last - first + 1)), self.parts)
        if self._longest is not None:
            length = min(length, self._longest)
        chosen: list[int] = []
        for _ in range(length):
            following = self._following.get(chosen[-1]) if chosen else None
            chosen.append(tokens(draw()) if following is None else following[0][following[1](draw())])
        ids = [self._ids[position] for position in chosen]
        if self.parts == 1:
            return [ids]
        cut = 1 + int(draw() * (length - 1))
        return [ids[:cut], ids[cut:]]


class _Choice:
    """Numbers, drawn as often as their weights say."""

    def __init__(self, weights: Sequence[int]) -> None:
        self._until = list(accumulate(weights))
        self.total = self._until[-1] if self._until else 0

    def __call__(self, uniform: float) -> int:
        """The number at a share of all weights, in [0, 1)."""
        return bisect_right(self._until, int(uniform * self.total))


def _following(counts: MappedCounts) -> dict[int, tuple[list[int], _Choice]]:
    """By a token's number, the numbers of those that follow it, and how they are drawn."""
    assert counts.counts.pairs is not None
    by_first: dict[int, list[tuple[int, int]]] = {}
    for first, second, times in counts.counts.pairs.tolist():
        if times and counts.ids[first] >= 0 and counts.ids[second] >= 0:
            by_first.setdefault(first, []).append((second, times))
    return {
        first: ([second for second, _ in pairs], _Choice([times for _, times in pairs]))
        for first, pairs in by_first.items()
    }


def few_tokens(name: str, counts: TokenCounts | None) -> str | None:
    """A warning where a member's counts tell too few tokens for pseudo-text; None where there are enough."""
    if counts is None or len(counts.tokens) >= FEW_TOKENS:
        return None
    return (
        f"{name}: counts of {len(counts.tokens)} tokens; pseudo-text of so few can bring a merge further from its "
        "members than their mean is"
    )

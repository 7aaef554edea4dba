"""Pseudo-text: sentences drawn from published counts of tokens, in place of a member's own.

A sentence has a length from the histogram of lengths, and tokens that are drawn independently, as often as they were
counted; or, where pairs were counted, each by the one before it (a Markov chain of first order). Of a pair of texts the
first has its share of the tokens, and the second repeats so many of the first one's, in their order at random places,
as the histograms of such shares say; where these were not told, one sentence is cut in two. All choices come from
:meth:`random.Random.random`, whose sequence for a seed Python guarantees.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from .errors import StatisticsError
from .token_counts import PAIR_HISTOGRAMS, TENTHS, MappedCounts, TokenCounts

Draw = Callable[[], float]
"""Gives the next number in [0, 1)."""

FEW_TOKENS = 100
"""Fewer tokens than this make poor pseudo-text, see docs/methods_with_text.md."""

TRIES = 20
"""How often a token is drawn again that must not be in the first text of a pair."""


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
        self._related = counts.counts.related
        shares = {name: table.tolist() for name, table in counts.counts.pair_histograms().items()}
        self._first_shares, self._overlaps = (_Choice(shares.get(name, [])) for name in PAIR_HISTOGRAMS)

    def parts_of(self, number: int) -> list[list[int]]:
        """The token ids of sentence ``number`` (from 0), without special tokens; of a pair, those of both texts."""
        draw = random.Random(f"pseudo-text {self.seed} {number}").random
        tokens = self._tokens[self._labels(draw())]
        first, last = self._ranges[self._lengths(draw())]
        length = max(first + int(draw() * (last - first + 1)), self.parts)
        if self._longest is not None:
            length = min(length, self._longest)
        if self._related:
            pair = self._pair(length, tokens, draw)
            return [[self._ids[position] for position in text] for text in pair]
        chosen: list[int] = []
        for _ in range(length):
            chosen.append(self._next(chosen, tokens, draw))
        ids = [self._ids[position] for position in chosen]
        if self.parts == 1:
            return [ids]
        cut = 1 + int(draw() * (length - 1))
        return [ids[:cut], ids[cut:]]

    def _next(self, before: Sequence[int], tokens: _Choice, draw: Draw) -> int:
        """A token that goes on with those before it."""
        following = self._following.get(before[-1]) if before else None
        return tokens(draw()) if following is None else following[0][following[1](draw())]

    def _pair(self, length: int, tokens: _Choice, draw: Draw) -> tuple[list[int], list[int]]:
        """Two texts of so many tokens together, the second with its share of the first one's."""
        first: list[int] = []
        for _ in range(_within(self._first_shares(draw()), length, range(1, length), draw)):
            first.append(self._next(first, tokens, draw))
        rest = length - len(first)
        shared = _within(self._overlaps(draw()), rest, range(rest + 1), draw)
        repeated = [first[place] for place in _places(min(shared, len(first)), len(first), draw)]
        repeated += [first[int(draw() * len(first))] for _ in range(shared - len(repeated))]
        second: list[int] = []
        own, places, following = set(first), set(_places(shared, rest, draw)), iter(repeated)
        for place in range(rest):
            second.append(next(following) if place in places else self._unlike(own, second, tokens, draw))
        return first, second

    def _unlike(self, own: set[int], before: Sequence[int], tokens: _Choice, draw: Draw) -> int:
        """A token that is none of some, if one can be had in a few tries."""
        for number in range(TRIES):
            token = self._next(before, tokens, draw) if 2 * number < TRIES else tokens(draw())
            if token not in own:
                break
        return token


def _within(tenth: int, whole: int, numbers: Sequence[int], draw: Draw) -> int:
    """One of some numbers whose share of the whole lies in a tenth; where none does, the one that is nearest to it."""
    fitting = [number for number in numbers if min(number * TENTHS // whole, TENTHS - 1) == tenth]
    if not fitting:
        return min(numbers, key=lambda number: abs(number / whole - (tenth + 0.5) / TENTHS))
    return fitting[int(draw() * len(fitting))]


def _places(count: int, whole: int, draw: Draw) -> list[int]:
    """So many of the places 0 to ``whole`` - 1, in their order, any choice as likely as any other."""
    chosen: list[int] = []
    for place in range(whole):
        if draw() * (whole - place) < count - len(chosen):
            chosen.append(place)
    return chosen


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

"""Counting of tokens over batches, with a threshold by different texts or differential privacy."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .accumulator import Accumulator
from .denoising import counts_of_tokens
from .distributed import add_up_, gather, rank, world_size
from .errors import StatisticsError
from .histograms import add_, empty, in_percent, ranges_of, told_lengths, without_noise
from .privacy import FALSE_LENGTHS, LENGTHS_SHARE, PAIRS_SHARE, Noise, secure_source
from .token_counts import PAIR_HISTOGRAMS, TENTHS, TokenCounts
from .vocabulary import Vocabulary

POSTERIOR = "posterior means, rounded"
"""What is told of noisy counts."""

_NOT_KEPT = (0, b"")


@dataclass(frozen=True)
class Privacy:
    """A guarantee of differential privacy, where adding or removing one text makes neighbours of data sets.

    Attributes:
        epsilon: ε of all that a file tells.
        delta: δ of it; None for pure differential privacy.
        tokens_per_text: distinct tokens of a text that are counted, the first ones, each once.
        related: whether texts are pairs of texts, of which it is told how the two are related.
    """

    epsilon: float
    delta: float | None = None
    tokens_per_text: int = 20
    related: bool = False

    @property
    def of_tokens(self) -> Noise:
        """Noise on the counts of tokens."""
        others = LENGTHS_SHARE + (PAIRS_SHARE * len(PAIR_HISTOGRAMS) if self.related else 0)
        return Noise(self.tokens_per_text, (1 - others) * self.epsilon, self.delta)

    @property
    def of_lengths(self) -> Noise:
        """Noise on the histogram of lengths, in which a text is counted once."""
        return Noise(1, LENGTHS_SHARE * self.epsilon)

    @property
    def of_pairs(self) -> Noise:
        """Noise on each of the two histograms of pairs of texts, in which a pair is counted once."""
        return Noise(1, PAIRS_SHARE * self.epsilon)


@dataclass(frozen=True)
class TokenStatistics:
    """Counts of a corpus's tokens as they may be published.

    Attributes:
        counts: the counts.
        examples: number of texts; with a guarantee, what the noisy histogram of lengths adds up to.
        batches: number of batches; with a guarantee, 0.
        privacy: what the guarantee is, as told; empty without one.
    """

    counts: TokenCounts
    examples: int
    batches: int
    privacy: dict[str, Any]


class TokenAccumulator(Accumulator[TokenStatistics]):
    """Counts tokens, texts that have them, and texts' lengths.

    A text that repeats another one hides nobody's: what is told is told by texts of which no two have the same tokens
    in the same order. How often something occurs is counted over all of them. With a guarantee every text counts, as
    neighbours differ in one text, repeated or not. In memory are 16 bytes a text; in several processes its tokens.

    Args:
        vocabulary: of the tokenizer.
        minimum: a token, a pair, or a range of lengths is told if it occurs in at least so many different texts.
        labels: rows of counts: 1, or one for each label.
        pairs: count pairs of adjacent tokens too.
        privacy: a guarantee; a count is then the number of texts, with noise.
        texts_per_example: 1, or 2 where every example is a pair of texts. It is told without noise: a property of the
            data set's columns, never learned from its texts.

    Raises:
        StatisticsError: for another number of texts.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        minimum: int,
        *,
        labels: int = 1,
        pairs: bool = False,
        privacy: Privacy | None = None,
        texts_per_example: int = 1,
    ) -> None:
        super().__init__()
        if texts_per_example not in (1, 2):
            raise StatisticsError(f"texts_per_example={texts_per_example}: expected 1 or 2")
        self.vocabulary = vocabulary
        self.minimum = minimum
        self.parts = texts_per_example
        self._frame = vocabulary.pair_frame if texts_per_example == 2 else ()
        self.privacy = None if privacy is None else replace(privacy, related=bool(self._frame))
        size = len(vocabulary.tokens)
        self.countable = torch.zeros(size, dtype=torch.bool)
        self.countable[list(vocabulary.ids.values())] = True
        self.occurrences = torch.zeros(labels, size, dtype=torch.int64)
        self.texts = torch.zeros(labels, size, dtype=torch.int64)
        self.histograms, self.histograms_of_texts = empty(bool(self._frame)), empty(bool(self._frame))
        self._seen: dict[bytes, tuple[int, bytes]] = {}
        self.pairs: dict[int, tuple[int, int]] | None = {} if pairs else None

    def add(self, ids: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            ids: token ids [examples, tokens].
            mask: non-zero at real tokens, of the same shape; None where all are.
            labels: the label of each example, where they are counted by labels.
        """
        self._check_open("add")
        with self._whole():
            ids = ids.cpu().long()
            real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu().bool()
            counted = real & self.countable[ids]
            rows = torch.zeros(len(ids), dtype=torch.int64) if labels is None else labels.cpu()
            table = self.texts.shape
            example, place = counted.nonzero(as_tuple=True)
            keys = rows[example] * table[1] + ids[example, place]
            self.occurrences += torch.bincount(keys, minlength=table.numel()).view(table)
            ranges = ranges_of(ids, real, counted, self._frame)
            add_(self.histograms, ranges)
            if self.pairs is not None:
                _add_pairs(self.pairs, ids, counted, table[1], occurrences=1, texts=0)
            chosen = self._different(ids, real, counted, rows)
            self._add_texts(ids[chosen], counted[chosen], rows[chosen], {n: r[chosen] for n, r in ranges.items()}, 1)
        self._count(len(ids))

    def compute(
        self, device: torch.device | str = "cpu", source: Callable[[], random.Random] = secure_source
    ) -> TokenStatistics:
        """The counts that may be told.

        Args:
            device: not used: counts are on the CPU.
            source: randomness of noise; anything but the default is for tests.

        Raises:
            StatisticsError: when there is nothing to tell.
        """
        self._check_counted()
        noisy = None if self.privacy is None else _released(self.privacy, self, source())
        if noisy is None:
            values, told = self.occurrences, self.texts >= self.minimum
            told_shares = {name: table >= self.minimum for name, table in self.histograms_of_texts.items()}
            shares, privacy = self.histograms, dict[str, Any]()
        else:
            values, told, shares, told_shares, privacy = noisy
        some = told.any(0)
        if not some.any() or not told_shares["lengths"].any():
            what = "token" if not some.any() else "range of lengths"
            by = f"at least {self.minimum} different texts" if noisy is None else "more texts than the noise hides"
            raise StatisticsError(
                f"no {what} occurs in {by}: count more texts{'' if noisy is None else ', or with a larger epsilon'}"
            )
        positions = some.nonzero().flatten().tolist()
        tokens = tuple(str(self.vocabulary.tokens[id_]) for id_ in positions)
        shares = {name: torch.where(told_shares[name], table, 0) for name, table in shares.items()}
        nothing = torch.zeros(TENTHS, dtype=torch.int64)
        related = {name: in_percent(shares.get(name, nothing)) for name in PAIR_HISTOGRAMS if self.parts == 2}
        counts = TokenCounts(
            tokens,
            torch.where(told, values, 0)[:, some],
            told_lengths(shares["lengths"], told_shares["lengths"]),
            self.vocabulary.describe(),
            None if self.pairs is None else self._told_pairs({id_: n for n, id_ in enumerate(positions)}),
            self.parts,
            **related,
        )
        if noisy is None:
            return TokenStatistics(counts, self._examples, self._batches, {})
        return TokenStatistics(counts, int(counts.lengths[:, 2].sum()), 0, privacy)

    def _different(self, ids: Tensor, real: Tensor, counted: Tensor, rows: Tensor) -> Tensor:
        """Which texts of a batch are none that was seen before, bool [examples]; with a guarantee, all."""
        if self.privacy is not None:
            return torch.ones(len(ids), dtype=torch.bool)
        several, found = world_size() > 1, []
        for text, there, own, row in zip(ids.numpy(), real.numpy(), counted.numpy(), rows.tolist(), strict=True):
            key = hashlib.blake2b(text[own].tobytes(), digest_size=16).digest()
            found.append(key not in self._seen)
            if found[-1]:
                self._seen[key] = (row, text[there].tobytes()) if several else _NOT_KEPT
        return torch.tensor(found, dtype=torch.bool)

    def _add_texts(self, ids: Tensor, counted: Tensor, rows: Tensor, ranges: Mapping[str, Tensor], times: int) -> None:
        """Count by texts, ``times`` (1 or -1) for each."""
        labels, size = self.texts.shape
        example, place = counted.nonzero(as_tuple=True)
        if self.privacy is None:
            own = torch.stack([example, ids[example, place]]).unique(dim=1)
        else:
            first = [
                list(dict.fromkeys(row[keep].tolist()))[: self.privacy.tokens_per_text]
                for row, keep in zip(ids, counted, strict=True)
            ]
            listed = [(number, token) for number, row in enumerate(first) for token in row]
            own = torch.tensor(listed, dtype=torch.int64).view(-1, 2).T
        self.texts += times * torch.bincount(rows[own[0]] * size + own[1], minlength=labels * size).view(labels, size)
        add_(self.histograms_of_texts, ranges, times)
        if self.pairs is not None:
            _add_pairs(self.pairs, ids, counted, size, occurrences=0, texts=times)

    def _told_pairs(self, positions: dict[int, int]) -> Tensor:
        assert self.pairs is not None
        size = self.texts.shape[1]
        told = [
            [positions[key // size], positions[key % size], occurrences]
            for key, (occurrences, texts) in sorted(self.pairs.items())
            if texts >= self.minimum
        ]
        return torch.tensor(told, dtype=torch.int64).view(-1, 3)

    def _add_up_sums(self) -> None:
        self._leave_to_earlier_processes()
        for table in (self.occurrences, self.texts, *self.histograms.values(), *self.histograms_of_texts.values()):
            add_up_(table)
        if self.pairs is not None:
            every: dict[int, tuple[int, int]] = {}
            for pairs in gather(self.pairs):
                for key, (occurrences, texts) in (pairs or {}).items():
                    before = every.get(key, (0, 0))
                    every[key] = before[0] + occurrences, before[1] + texts
            self.pairs = every

    def _leave_to_earlier_processes(self) -> None:
        """Take back texts that a process of a lower number has seen as well."""
        earlier: set[bytes] = set().union(*gather(set(self._seen))[: rank()])
        for row, text in (self._seen[key] for key in earlier & self._seen.keys()):
            if not text:
                continue  # it has nothing that counts
            ids = torch.frombuffer(bytearray(text), dtype=torch.int64).unsqueeze(0)
            real, counted = torch.ones_like(ids, dtype=torch.bool), self.countable[ids]
            self._add_texts(ids, counted, torch.tensor([row]), ranges_of(ids, real, counted, self._frame), -1)


def _add_pairs(
    pairs: dict[int, tuple[int, int]], ids: Tensor, counted: Tensor, size: int, occurrences: int, texts: int
) -> None:
    """Add to each pair of neighbours its occurrences, and the texts that have it, times a factor each."""
    example, place = (counted[:, 1:] & counted[:, :-1]).nonzero(as_tuple=True)
    keys = ids[example, place] * size + ids[example, place + 1]
    each, times = torch.stack([example, keys]).unique(dim=1, return_counts=True)
    for key, count in zip(each[1].tolist(), times.tolist(), strict=True):
        before = pairs.get(key, (0, 0))
        pairs[key] = before[0] + occurrences * count, before[1] + texts


def _released(
    privacy: Privacy, counter: TokenAccumulator, source: random.Random
) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """What noisy counts say of tokens and in histograms, which are told, and the guarantee in words and numbers.

    Noise is added to every count that there could be, so that all that is told depends on noisy counts alone.
    """
    countable = counter.countable.nonzero().flatten()
    values = torch.zeros_like(counter.texts)
    noise = privacy.of_tokens
    for row, texts in zip(values, counter.texts, strict=True):
        row[countable] = counts_of_tokens(texts[countable] + noise.draw(len(countable), source), noise)
    length_noise = privacy.of_lengths
    lengths = counter.histograms["lengths"]
    shares = {"lengths": lengths + length_noise.draw(len(lengths), source)}
    length_threshold = max(counter.minimum, length_noise.threshold(FALSE_LENGTHS / len(lengths)))
    told_shares = {"lengths": shares["lengths"] >= length_threshold}
    for name, table in counter.histograms.items():
        if name in PAIR_HISTOGRAMS:
            noisy = table + privacy.of_pairs.draw(len(table), source)
            shares[name] = without_noise(noisy, privacy.of_pairs.deviation)
            told_shares[name] = shares[name] > 0
    told = {
        "epsilon": privacy.epsilon,
        "delta": privacy.delta or 0.0,
        "neighbours": "one text added or removed",
        "tokens": {**noise.describe(), "told": POSTERIOR},
        "lengths": {**length_noise.describe(), "threshold": length_threshold},
        **{name: privacy.of_pairs.describe() for name in shares if name in PAIR_HISTOGRAMS},
    }
    return values, values > 0, shares, told_shares, told

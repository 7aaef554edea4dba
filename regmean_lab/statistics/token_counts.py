"""How often tokens occur in a member's texts, and how long the texts are: all that pseudo-text is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .errors import StatisticsError, name_list
from .vocabulary import Vocabulary, named

KNOWN_SHARE = 0.8
"""Least share of all occurrences whose tokens another vocabulary must have."""

LONGEST_TEXT = 1 << 24
"""More tokens than a text has."""

TENTHS = 10
"""Ranges of a histogram of shares."""

PAIR_HISTOGRAMS = ("first_shares", "overlaps")
"""Histograms that tell how the two texts of a pair are related, see :class:`TokenCounts`."""


@dataclass(frozen=True)
class TokenCounts:
    """Counts of the tokens of a corpus, special ones left out.

    Attributes:
        tokens: m tokens, as the tokenizer writes them.
        counts: int64 [labels, m]: how often each occurs, or in how many texts; one row, or one for each label.
        lengths: int64 [n, 3]: the first and the last length of a range (in tokens), and how many texts have one of
            them.
        vocabulary: what :meth:`Vocabulary.describe` says of the tokenizer's.
        pairs: int64 [p, 3]: numbers of two tokens, and how often the second follows the first; None where not counted.
        parts: texts an example: 2 where examples are pairs.
        first_shares: of pairs of texts, int64 [10]: how many percent have up to a tenth, two tenths, … of their tokens
            in the first text; None where not counted, and all 0 where not told.
        overlaps: of pairs of texts, int64 [10]: of how many percent up to a tenth, two tenths, … of the second text's
            tokens are in the first one as well; None where not counted, and all 0 where not told.
    """

    tokens: tuple[str, ...]
    counts: Tensor
    lengths: Tensor
    vocabulary: dict[str, Any] = field(default_factory=dict)
    pairs: Tensor | None = None
    parts: int = 1
    first_shares: Tensor | None = None
    overlaps: Tensor | None = None

    def pair_histograms(self) -> dict[str, Tensor]:
        """Those of `PAIR_HISTOGRAMS` that were counted, by their names."""
        found = {name: getattr(self, name) for name in PAIR_HISTOGRAMS}
        return {name: table for name, table in found.items() if table is not None}

    @property
    def related(self) -> bool:
        """Whether it is told how the two texts of pairs are related."""
        found = self.pair_histograms().values()
        return len(found) == len(PAIR_HISTOGRAMS) and all(int(table.sum()) > 0 for table in found)

    def faults(self) -> list[str]:
        """Why these cannot be counts: one message each."""
        found = _table_faults("counts", self.counts, None, len(self.tokens))
        found += _table_faults("lengths", self.lengths, 3, 3)
        if self.pairs is not None:
            found += _table_faults("pairs", self.pairs, 3, 3)
        for name, table in self.pair_histograms().items():
            if list(table.shape) != [TENTHS]:
                found.append(f"{name}: of shape {list(table.shape)}, expected [{TENTHS}]")
            found += _table_faults(name, table.reshape(1, -1), None, table.numel())
            if self.parts != 2:
                found.append(f"{name}: is of pairs of texts, and parts is {self.parts}")
        if len(set(self.tokens)) < len(self.tokens):
            found.append("a token occurs twice")
        if self.parts not in (1, 2):
            found.append(f"parts is {self.parts}, expected 1 or 2")
        if found:
            return found
        if int(self.counts.sum()) == 0:
            found.append("no token is counted")
        found += _length_faults(self.lengths.tolist())
        if self.pairs is not None and len(self.pairs) and int(self.pairs[:, :2].max()) >= len(self.tokens):
            found.append(f"pairs: number {int(self.pairs[:, :2].max())} of a token, and there are {len(self.tokens)}")
        if self.vocabulary.get("size", len(self.tokens)) < len(self.tokens):
            found.append(f"{len(self.tokens)} tokens of a vocabulary of {self.vocabulary['size']}")
        return found


@dataclass(frozen=True)
class MappedCounts:
    """Counts in the ids of a vocabulary.

    Attributes:
        ids: the id of each token; -1 for those that the vocabulary lacks.
        counts: the counts.
        known: share of all occurrences whose tokens the vocabulary has.
    """

    ids: tuple[int, ...]
    counts: TokenCounts
    known: float = 1.0


def mapped(counts: TokenCounts, vocabulary: Vocabulary) -> MappedCounts:
    """Counts in the ids of a vocabulary: of the tokenizer that counted, or another one, by the tokens' texts.

    Raises:
        StatisticsError: for a token that the tokenizer that counted does not have; for another tokenizer, when it marks
            words otherwise, or too many tokens are unknown to it, with numbers.
    """
    ids = tuple(vocabulary.ids.get(token, -1) for token in counts.tokens)
    unknown = [token for token, id_ in zip(counts.tokens, ids, strict=True) if id_ < 0]
    own = vocabulary.describe()
    if counts.vocabulary.get("digest") == own["digest"]:
        if unknown:
            raise StatisticsError(f"counts of {name_list(unknown)}, which the tokenizer they name does not have")
        return MappedCounts(ids, counts)
    occurrences = counts.counts.sum(0)
    known = float(occurrences[torch.tensor(ids) >= 0].sum() / occurrences.sum())
    others = f"another tokenizer ({named({**own, **counts.vocabulary})}) than the model's ({named(own)})"
    if counts.vocabulary.get("mark", own["mark"]) != own["mark"]:
        raise StatisticsError(
            f"counted with {others}, which marks words otherwise ({counts.vocabulary['mark'] or 'not at all'}, and "
            f"{own['mark'] or 'not at all'}); count again with the model's"
        )
    if known < KNOWN_SHARE:
        raise StatisticsError(
            f"counted with {others}, which has {len(ids) - len(unknown)} of {len(ids)} tokens, {known:.0%} of what was "
            f"counted; expected at least {KNOWN_SHARE:.0%}: count again with the model's"
        )
    return MappedCounts(ids, counts, known)


def _table_faults(name: str, table: Tensor, rows_of: int | None, width: int) -> list[str]:
    """Why a tensor is no table of whole numbers of at least 0 with so many columns."""
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        return [f"{name}: {table.dtype}, expected whole numbers"]
    if table.dim() != 2 or table.shape[1] != width or (rows_of is None and len(table) == 0):
        return [f"{name}: of shape {list(table.shape)}, expected [{'rows' if rows_of else 'labels'}, {width}]"]
    if table.numel() and int(table.to(torch.int64).min()) < 0:
        return [f"{name}: a negative number"]
    return []


def _length_faults(rows: Sequence[Sequence[int]]) -> list[str]:
    """Why ranges of lengths do not fit together."""
    last, found = 0, []
    for first, end, _ in rows:
        if not last < first <= end < LONGEST_TEXT:
            found.append(f"lengths: the range {first} to {end} does not follow {last}")
        last = max(last, end)
    if not sum(texts for *_, texts in rows):
        found.append("no length is counted")
    return found

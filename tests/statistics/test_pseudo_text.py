"""Pseudo-text against the counts that it is drawn from: chi-square tests with fixed seeds, and what cannot be drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from regmean_lab.statistics.errors import StatisticsError
from regmean_lab.statistics.pseudo_text import PseudoText
from regmean_lab.statistics.token_counts import MappedCounts, TokenCounts, mapped
from regmean_lab.statistics.vocabulary import Vocabulary

TOKENS = ("the", "film", "was", "good", "##s")
VOCABULARY = Vocabulary(("[PAD]", *TOKENS, "[SEP]"), frozenset({0, 6}), frozenset({0, 6}), "WordPiece")
COUNTS = TokenCounts(
    TOKENS,
    torch.tensor([[40, 25, 20, 10, 5]]),
    torch.tensor([[1, 1, 10], [2, 3, 20], [8, 11, 10]]),
    VOCABULARY.describe(),
)
DRAWN = 3000
SEED_0 = [[2, 2], [5, 1, 2, 1, 2, 1, 1, 2, 2, 4], [2], [3, 3]]
Change = Callable[[TokenCounts], TokenCounts]


def sentences(counts: TokenCounts, count: int = DRAWN, seed: int = 0, longest: int | None = None) -> list[list[int]]:
    text = PseudoText(mapped(counts, VOCABULARY), seed, longest)
    return [list(chain(*text.parts_of(number))) for number in range(count)]


def as_drawn(observed: list[int], expected: list[float]) -> bool:
    """Whether a chi-square test keeps to what was expected, at a level that a right program misses once in 1000."""
    total = sum(expected)
    return chisquare(observed, [sum(observed) * value / total for value in expected]).pvalue > 1e-3


def test_tokens_and_lengths_are_those_of_the_histograms() -> None:
    drawn = sentences(COUNTS)
    tokens = Counter(token for sentence in drawn for token in sentence)
    assert as_drawn([tokens[id_] for id_ in range(1, 6)], [40, 25, 20, 10, 5])
    lengths = Counter(len(sentence) for sentence in drawn)
    assert as_drawn([lengths[n] for n in (1, 2, 3, 8, 9, 10, 11)], [10, 10, 10, 2.5, 2.5, 2.5, 2.5])
    assert sum(lengths.values()) == DRAWN
    assert set(tokens) <= set(range(1, 6))


def test_tokens_are_independent_of_each_other() -> None:
    pairs = Counter((one, two) for sentence in sentences(COUNTS) for one, two in pairwise(sentence))
    shares = dict(zip(range(1, 6), (40, 25, 20, 10, 5), strict=True))
    keys = [(one, two) for one in shares for two in shares]
    assert as_drawn([pairs[key] for key in keys], [shares[one] * shares[two] for one, two in keys])


def test_with_pairs_each_token_follows_the_one_before_it() -> None:
    pairs = torch.tensor([[0, 1, 30], [0, 3, 10], [1, 2, 7]])
    found = Counter(
        (one, two) for sentence in sentences(replace(COUNTS, pairs=pairs)) for one, two in pairwise(sentence)
    )
    after_the = {two: times for (one, two), times in found.items() if one == 1}
    assert set(after_the) == {2, 4}
    assert as_drawn([after_the[2], after_the[4]], [30, 10])
    assert {two for one, two in found if one == 2} == {3}
    assert {two for one, two in found if one == 3} == set(range(1, 6))  # without pairs of its own: independent


def test_of_labels_each_has_its_own_tokens() -> None:
    counts = replace(COUNTS, counts=torch.tensor([[30, 0, 10, 0, 0], [0, 60, 0, 0, 0]]))
    drawn = sentences(counts)
    assert all(set(sentence) <= {1, 3} or set(sentence) == {2} for sentence in drawn)
    assert as_drawn([sum(2 not in sentence for sentence in drawn), sum(2 in sentence for sentence in drawn)], [40, 60])


def test_the_same_seed_gives_the_same_and_fewer_are_part_of_more() -> None:
    assert sentences(COUNTS, 50) == sentences(COUNTS, 80)[:50]
    assert sentences(COUNTS, 50) != sentences(COUNTS, 50, seed=1)


def test_known_sentences_of_a_seed() -> None:
    """Published results name a seed: what it gives must not change."""
    assert sentences(COUNTS, 4) == SEED_0


def test_long_ones_are_cut_and_pairs_have_two_parts() -> None:
    assert max(map(len, sentences(COUNTS, 300, longest=4))) == 4
    text = PseudoText(mapped(replace(COUNTS, parts=2), VOCABULARY), 0)
    parts = [text.parts_of(number) for number in range(300)]
    assert all(len(pair) == 2 and pair[0] and pair[1] for pair in parts)
    with pytest.raises(StatisticsError, match="no room for pseudo-text in 1 tokens"):
        PseudoText(mapped(replace(COUNTS, parts=2), VOCABULARY), 0, longest=1)


def lengths(*rows: tuple[int, int, int]) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, counts=torch.tensor([[40, 25, 20, 10, -5]])), "counts: a negative number"),
        (lambda c: replace(c, counts=c.counts.float()), r"counts: torch.float32, expected whole numbers"),
        (lambda c: replace(c, counts=c.counts[0]), r"counts: of shape \[5\], expected \[labels, 5\]"),
        (lambda c: replace(c, counts=c.counts[:, :4]), r"counts: of shape \[1, 4\], expected \[labels, 5\]"),
        (lambda c: replace(c, counts=c.counts * 0), "no token is counted"),
        (lambda c: replace(c, tokens=("the",) * 5), "a token occurs twice"),
        (lambda c: replace(c, lengths=lengths((1, 4, 9), (4, 6, 9))), "lengths: the range 4 to 6 does not follow 4"),
        (lambda c: replace(c, lengths=lengths((5, 4, 9))), "lengths: the range 5 to 4 does not follow 0"),
        (lambda c: replace(c, lengths=lengths((0, 4, 9))), "lengths: the range 0 to 4 does not follow 0"),
        (lambda c: replace(c, lengths=lengths((1, 1 << 30, 9))), "lengths: the range 1 to 1073741824 does not follow"),
        (lambda c: replace(c, lengths=lengths((1, 4, 0))), "no length is counted"),
        (lambda c: replace(c, lengths=lengths((1, 4, -1))), "lengths: a negative number"),
        (lambda c: replace(c, lengths=torch.tensor([[1, 4]])), r"lengths: of shape \[1, 2\]"),
        (lambda c: replace(c, pairs=torch.tensor([[0, 5, 3]])), "pairs: number 5 of a token, and there are 5"),
        (lambda c: replace(c, pairs=torch.tensor([[0.0, 1.0, 3.0]])), "pairs: torch.float32"),
        (lambda c: replace(c, parts=3), "parts is 3, expected 1 or 2"),
        (lambda c: replace(c, vocabulary={**c.vocabulary, "size": 4}), "5 tokens of a vocabulary of 4"),
    ],
)
def test_what_cannot_be_counts_is_told(change: Change, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        PseudoText(MappedCounts((1, 2, 3, 4, 5), change(COUNTS)), 0)


def test_nothing_known_is_refused() -> None:
    with pytest.raises(StatisticsError, match="no token is known"):
        PseudoText(MappedCounts((-1,) * 5, COUNTS), 0)


def other(*tokens: str, algorithm: str = "WordPiece") -> Vocabulary:
    return Vocabulary(("[PAD]", *tokens), frozenset({0}), frozenset({0}), algorithm)


def test_counts_of_another_vocabulary_are_matched_by_the_tokens_texts() -> None:
    vocabulary = other("was", "the", "film", "##ing", "##s")  # "good" is unknown
    found = mapped(COUNTS, vocabulary)
    assert found.ids == (2, 3, 1, -1, 5)
    assert found.known == pytest.approx(0.9)
    text = PseudoText(found, 0)
    tokens = Counter(token for number in range(DRAWN) for token in text.parts_of(number)[0])
    assert as_drawn([tokens[id_] for id_ in (2, 3, 1, 5)], [40, 25, 20, 5])
    assert sum(tokens.values()) == sum(tokens[id_] for id_ in (2, 3, 1, 5))


def test_a_vocabulary_that_lacks_too_many_is_refused_with_numbers() -> None:
    with pytest.raises(StatisticsError) as caught:
        mapped(COUNTS, other("the", "was", "##s"))
    assert "another tokenizer (WordPiece, 5 tokens, digest " in str(caught.value)
    assert "which has 3 of 5 tokens, 65% of what was counted; expected at least 80%" in str(caught.value)


def test_one_that_marks_words_otherwise_is_refused_even_where_tokens_have_the_same_texts() -> None:
    vocabulary = other(*TOKENS[:4], "s", "Ġthe", "Ġfilm", algorithm="BPE")
    with pytest.raises(StatisticsError, match=r"marks words otherwise \(##, and Ġ\)"):
        mapped(COUNTS, vocabulary)


def test_a_token_that_the_named_tokenizer_does_not_have_is_refused() -> None:
    edited = replace(COUNTS, tokens=("the", "film", "was", "good", "bad"))
    with pytest.raises(StatisticsError, match="counts of 'bad', which the tokenizer they name does not have"):
        mapped(edited, VOCABULARY)
    with pytest.raises(StatisticsError, match="which the tokenizer they name does not have"):
        mapped(replace(COUNTS, tokens=("the", "film", "was", "good", "[SEP]")), VOCABULARY)

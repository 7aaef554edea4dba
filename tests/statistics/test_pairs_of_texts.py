"""How the two texts of pairs are related: counts against loops, noise, files, and what is drawn from them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from scipy.stats import chisquare
from torch import Tensor

from regmean_lab.statistics import KINDS, StatisticsError, TokensConfig, TokensFile, Vocabulary, collect_tokens
from regmean_lab.statistics.histograms import without_noise
from regmean_lab.statistics.kinds.tokens import accumulator_of, save_tokens
from regmean_lab.statistics.privacy import Noise
from regmean_lab.statistics.pseudo_text import PseudoText
from regmean_lab.statistics.token_counter import Privacy, TokenAccumulator
from regmean_lab.statistics.token_counts import TokenCounts, mapped

PAD, CLS, SEP, UNKNOWN = range(4)
SIZE = 60
VOCABULARY = Vocabulary(
    tuple(f"w{id_}" for id_ in range(SIZE)),
    frozenset({PAD, CLS, SEP, UNKNOWN}),
    frozenset({PAD, CLS, SEP}),
    "WordPiece",
    (CLS, SEP, SEP),
)
Pair = tuple[list[int], list[int]]


def pairs(count: int = 150, seed: int = 0) -> list[Pair]:
    """Pairs of texts with unknown tokens, some of them without a text that has any other."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        first = draw.choices(range(UNKNOWN, SIZE), k=draw.randint(1, 12))
        kept = [token for token in first if draw.random() < draw.choice((0.1, 0.6, 1.0))]
        found.append((first, kept + draw.choices(range(UNKNOWN, SIZE), k=draw.randint(0, 6))))
    return found


def batches(rows: Sequence[Pair], size: int = 7, between: Sequence[int] = (SEP,)) -> list[dict[str, Tensor]]:
    made = []
    for start in range(0, len(rows), size):
        part = [[CLS, *first, *between, *second, SEP] for first, second in rows[start : start + size]]
        width = max(map(len, part))
        ids = torch.tensor([row + [PAD] * (width - len(row)) for row in part])
        made.append({"input_ids": ids, "attention_mask": (ids != PAD).long()})
    return made


def counted(rows: Sequence[Pair], between: Sequence[int] = (SEP,), **settings: Any) -> TokenCounts:
    made, vocabulary = batches(rows, between=between), replace(VOCABULARY, pair_frame=(CLS, *between, SEP))
    return collect_tokens(made, vocabulary, TokensConfig(**settings), texts_per_example=2).counts


def tenths(rows: Sequence[Pair]) -> tuple[Counter[int], Counter[int]]:
    """The two histograms by a loop; the last tenth has a share of one."""
    shares, overlaps = Counter[int](), Counter[int]()
    for pair in rows:
        first, second = ([token for token in text if token != UNKNOWN] for text in pair)
        if first and second:
            shares[min(10 * len(first) // (len(first) + len(second)), 9)] += 1
            overlaps[min(10 * sum(token in first for token in second) // len(second), 9)] += 1
    return shares, overlaps


def as_lists(counts: TokenCounts) -> list[list[int]]:
    return [table.tolist() for table in counts.pair_histograms().values()]


@pytest.mark.parametrize("between", [(SEP,), (SEP, SEP), (SEP, CLS)])
@pytest.mark.parametrize("minimum", [1, 5, 20])
def test_histograms_are_those_of_a_loop(minimum: int, between: Sequence[int]) -> None:
    rows = pairs()
    assert len({(*first, SEP, *second) for first, second in rows}) == len(rows)
    found = as_lists(counted(rows, between, minimum_count=minimum))
    expected = [in_percent([table[n] if table[n] >= minimum else 0 for n in range(10)]) for table in tenths(rows)]
    assert found == expected
    assert all(any(table) for table in expected)


def in_percent(table: Sequence[int]) -> list[int]:
    return [round(100 * n / sum(table)) for n in table]


def test_pairs_that_repeat_one_tell_nothing_of_it() -> None:
    rows = [([10, 11, 12, 13], [50, 51]), *[([n, 10], [n, 11]) for n in range(20, 26)]]
    found = counted([*rows, *[rows[0]] * 9], minimum_count=5)
    assert as_lists(found) == [[0] * 5 + [100] + [0] * 4] * 2
    more = [([n, 10, 11], [n]) for n in range(30, 36)]
    shares = as_lists(counted([*rows, *[rows[1]] * 6, *more], minimum_count=5))
    assert shares == [[0] * 5 + [67, 0, 33, 0, 0], [0] * 5 + [67, 0, 0, 0, 33]]  # of 18, repeated ones among them


@pytest.mark.parametrize("special", [SEP, CLS])
def test_what_frames_pairs_within_a_text_leaves_the_pair_out(special: int) -> None:
    rows = pairs()
    odd = [([first[0], special, *first], second) for first, second in rows[:9]]
    assert as_lists(counted([*rows, *odd])) == as_lists(counted(rows))


def test_other_special_tokens_within_a_text_split_nothing() -> None:
    marker = 59
    vocabulary = replace(VOCABULARY, special=VOCABULARY.special | {marker}, separators=VOCABULARY.separators | {marker})
    rows = [(first, second) for first, second in pairs() if marker not in (*first, *second)]
    marked = [([first[0], marker, *first[1:]], second) for first, second in rows]
    found, expected = (
        collect_tokens(batches(some), vocabulary, TokensConfig(), texts_per_example=2).counts for some in (marked, rows)
    )
    assert as_lists(found) == as_lists(expected)


def test_pairs_that_nothing_separates_tell_nothing_and_spend_nothing() -> None:
    vocabulary = replace(VOCABULARY, pair_frame=())
    made = batches(pairs(400), between=())
    for settings in (TokensConfig(), TokensConfig(epsilon=8.0)):
        found = collect_tokens(made, vocabulary, settings, texts_per_example=2)
        assert (as_lists(found.counts), found.counts.related, found.counts.parts) == ([[0] * 10] * 2, False, 2)
        assert "overlaps" not in found.privacy
    assert found.privacy["tokens"]["epsilon"] == pytest.approx(0.9 * 8)


def test_single_texts_have_none_and_texts_that_nothing_separates_tell_none() -> None:
    one = [{"input_ids": torch.tensor([[CLS, 10, 11, SEP]] * 3 + [[CLS, 10, n, SEP] for n in range(20, 26)])}]
    assert collect_tokens(one, VOCABULARY).counts.pair_histograms() == {}
    together = collect_tokens(one, VOCABULARY, texts_per_example=2).counts
    assert as_lists(together) == [[0] * 10] * 2


@pytest.mark.parametrize("delta", [None, 1e-6])
def test_noise_is_made_for_what_one_pair_changes(delta: float | None) -> None:
    privacy = Privacy(3.0, delta, related=True)
    spent = privacy.of_tokens.epsilon + privacy.of_lengths.epsilon + 2 * privacy.of_pairs.epsilon
    assert spent == pytest.approx(3.0)
    assert privacy.of_pairs == Noise(1, privacy.of_pairs.epsilon)
    rows = pairs(40)

    def histograms(chosen: Sequence[Pair]) -> list[Tensor]:
        accumulator = TokenAccumulator(VOCABULARY, 5, privacy=privacy, texts_per_example=2)
        for batch in batches(chosen):
            accumulator.add(batch["input_ids"], batch["attention_mask"])
        return [accumulator.histograms[name] for name in ("first_shares", "overlaps")]

    whole = histograms(rows)
    changes = [
        [int((table - other).abs().sum()) for table, other in zip(whole, histograms(fewer), strict=True)]
        for fewer in (rows[:left] + rows[left + 1 :] for left in range(len(rows)))
    ]
    assert max(chain(*changes)) == 1


def test_noisy_histograms_are_told_without_a_threshold_and_with_their_guarantee() -> None:
    rows, settings = pairs(400), TokensConfig(epsilon=8.0)
    accumulator = accumulator_of(VOCABULARY, settings, texts_per_example=2)
    for batch in batches(rows):
        accumulator.add(batch["input_ids"], batch["attention_mask"])
    found = accumulator.compute(source=lambda: random.Random(5))
    # The same source, drawn in the same order: tokens, lengths, and each histogram.
    source, privacy = random.Random(5), Privacy(8.0, related=True)
    privacy.of_tokens.draw(SIZE - 4, source)
    privacy.of_lengths.draw(len(accumulator.histograms["lengths"]), source)
    for table, exact in zip(found.counts.pair_histograms().values(), tenths(rows), strict=True):
        noisy = torch.tensor([exact[n] for n in range(10)]) + privacy.of_pairs.draw(10, source)
        values = without_noise(noisy, privacy.of_pairs.deviation)
        assert table.tolist() == in_percent(values.tolist())
    assert found.privacy["overlaps"] == found.privacy["first_shares"] == privacy.of_pairs.describe()
    assert found.privacy["tokens"]["epsilon"] == pytest.approx(0.8 * 8)
    metadata = {"settings": {"minimum_count": 5}, "privacy": found.privacy, "parts": 2}
    told = KINDS["tokens"].told(metadata)
    assert "and on two histograms of how the two texts of pairs are related (ε 0.4 each)" in told


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_taken_off_as_the_nearest_histogram_of_the_same_sum(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randint(-30, 60, (10,), generator=generator) + torch.tensor([200] + [0] * 9)
    found = without_noise(noisy, 1.0).numpy()
    nearest = minimize(
        lambda table: float(((table - noisy.numpy()) ** 2).sum()),
        noisy.clamp(min=0).double().numpy(),
        bounds=[(0, None)] * 10,
        constraints={"type": "eq", "fun": lambda table: float(table.sum()) - float(noisy.sum())},
        method="SLSQP",
    )
    np.testing.assert_allclose(found, nearest.x, atol=1e-3)


def test_a_histogram_that_can_be_noise_alone_tells_nothing() -> None:
    noise, total = Noise(1, 0.05), 0
    for seed in range(200):
        noisy = noise.draw(10, random.Random(seed))
        total += int(without_noise(noisy, noise.deviation).any())
    assert total <= 4  # a sum beyond three standard deviations is rare


def test_the_card_says_what_pairs_reveal() -> None:
    metadata = {"settings": {"minimum_count": 7}, "privacy": {}, "parts": 2, "related": True}
    assert "each tenth of at least 7 different pairs" in KINDS["tokens"].told(metadata)
    assert "pairs" not in KINDS["tokens"].told({**metadata, "related": False})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "tokens.safetensors"
    statistics = collect_tokens(batches(pairs()), VOCABULARY, TokensConfig(), texts_per_example=2)
    save_tokens(found, statistics, {"settings": {"minimum_count": 5}})
    return found


def edited(path: Path, **tensors: Tensor | None) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    kept = {name: tensor for name, tensor in {**load_file(path), **tensors}.items() if tensor is not None}
    metadata["shared"] = "{" + ", ".join(f'"{name}": "{name}"' for name in kept) + "}"
    save_file(kept, path, metadata=metadata)
    return path


def test_a_file_gives_back_what_was_counted(path: Path) -> None:
    assert as_lists(TokensFile(path).counts) == as_lists(counted(pairs()))


def test_what_cannot_be_histograms_of_pairs_is_refused(path: Path) -> None:
    whole, table = path.read_bytes(), torch.arange(10, dtype=torch.int32)
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({"overlaps": table - 1}, "overlaps: a negative number"),
        ({"overlaps": table[:9].clone()}, r"overlaps: of shape \[9\], expected \[10\]"),
        ({"first_shares": table[None]}, r"first_shares: of shape \[1, 10\], expected \[10\]"),
    ]
    for change, message in cases:
        path.write_bytes(whole)
        with pytest.raises(StatisticsError, match=message):
            TokensFile(edited(path, **change))
    one_text = replace(COUNTS, parts=1)
    assert "overlaps: is of pairs of texts, and parts is 1" in one_text.faults()


def test_files_that_do_not_tell_it_are_collected_again_unless_they_have_a_guarantee(path: Path, tmp_path: Path) -> None:
    kind = KINDS["tokens"]
    assert kind.outdated(TokensFile(path)) is None
    old = TokensFile(edited(path, overlaps=None, first_shares=None))
    assert old.counts.pair_histograms() == {}
    assert "does not tell how the two texts of a pair are related" in str(kind.outdated(old))
    private = collect_tokens(batches(pairs(400)), VOCABULARY, TokensConfig(epsilon=8.0), texts_per_example=2)
    save_tokens(tmp_path / "private.safetensors", private, {"settings": {}})
    assert kind.outdated(TokensFile(edited(tmp_path / "private.safetensors", overlaps=None, first_shares=None))) is None


COUNTS = TokenCounts(
    tuple(f"w{id_}" for id_ in range(4, SIZE)),
    torch.arange(1, SIZE - 3)[None],
    torch.tensor([[40, 47, 10]]),
    VOCABULARY.describe(),
    parts=2,
    first_shares=torch.tensor([0, 0, 0, 2, 5, 0, 0, 1, 0, 0]),
    overlaps=torch.tensor([6, 0, 3, 0, 0, 0, 2, 0, 0, 4]),
)
SEED_0 = [[[43, 30], [23, 50]], [[20, 44, 38, 47], [48]]]


def drawn(counts: TokenCounts, count: int = 2000, longest: int | None = None) -> list[list[list[int]]]:
    text = PseudoText(mapped(counts, VOCABULARY), 0, longest)
    return [text.parts_of(number) for number in range(count)]


def test_drawn_pairs_have_the_histograms_that_were_told() -> None:
    rows = drawn(COUNTS)
    shares, overlaps = tenths([(first, second) for first, second in rows])
    for table, told in ((shares, COUNTS.first_shares), (overlaps, COUNTS.overlaps)):
        assert told is not None
        expected = [2000 * n / int(told.sum()) for n in told.tolist()]
        assert {n for n in range(10) if table[n]} == {n for n in range(10) if expected[n]}
        assert chisquare([table[n] for n in table], [expected[n] for n in table]).pvalue > 1e-3
    assert {len(first) + len(second) for first, second in rows} == set(range(40, 48))


def test_tokens_of_the_first_text_are_drawn_as_they_were_counted() -> None:
    tokens = Counter(chain(*(first for first, _ in drawn(COUNTS))))
    total, weights = sum(tokens.values()), range(1, SIZE - 3)
    expected = [total * weight / sum(weights) for weight in weights]
    assert chisquare([tokens[id_] for id_ in range(4, SIZE)], expected).pvalue > 1e-3


def test_repeated_tokens_are_in_their_order() -> None:
    """With as many words as there are, that no text has twice, what is shared is a part of the first text as it is."""
    many = 100_000
    vocabulary = Vocabulary(tuple(f"w{id_}" for id_ in range(many)), frozenset({0}), frozenset({0}))
    counts = TokenCounts(
        tuple(f"w{id_}" for id_ in range(1, many)),
        torch.ones(1, many - 1, dtype=torch.int64),
        torch.tensor([[40, 47, 10]]),
        vocabulary.describe(),
        parts=2,
        first_shares=torch.tensor([0] * 5 + [1] + [0] * 4),
        overlaps=torch.tensor([0] * 6 + [1] + [0] * 3),
    )
    text = PseudoText(mapped(counts, vocabulary), 0)
    for number in range(50):
        first, second = text.parts_of(number)
        shared = [token for token in second if token in first]
        assert shared == [token for token in first if token in shared]
        assert 0.6 <= len(shared) / len(second) < 0.7


def test_short_and_cut_pairs_have_two_texts_and_without_histograms_one_sentence_is_cut() -> None:
    for longest in (2, 3, 5):
        assert all(first and second for first, second in drawn(COUNTS, 100, longest))
        assert max(len(first) + len(second) for first, second in drawn(COUNTS, 100, longest)) == longest
    zeros = torch.zeros(10, dtype=torch.int64)
    before = replace(COUNTS, first_shares=None, overlaps=None)
    assert drawn(replace(COUNTS, first_shares=zeros, overlaps=zeros), 20) == drawn(before, 20)
    assert drawn(COUNTS, 20) != drawn(before, 20)


def test_known_pairs_of_a_seed() -> None:
    """Published results name a seed: what it gives must not change."""
    assert drawn(replace(COUNTS, lengths=torch.tensor([[3, 7, 1]])), 2) == SEED_0


def test_what_must_not_be_in_the_first_text_is_found_where_few_tokens_follow() -> None:
    """Followers that are all in the first text give way to the counts of single tokens."""
    following = torch.tensor([[n, (n + step) % 56, 1] for n in range(56) for step in (1, 55)])
    none = replace(COUNTS, lengths=torch.tensor([[20, 24, 1]]), overlaps=torch.tensor([1] + [0] * 9), pairs=following)
    rows = drawn(none, 300)
    repeated = sum(token in first for first, second in rows for token in second)
    assert repeated < 0.06 * sum(len(second) for _, second in rows)


def test_a_pair_goes_on_by_pairs_of_tokens_where_these_were_counted() -> None:
    chain_of_two = torch.tensor([[n, (n + 1) % 56, 1] for n in range(56)])
    for first, second in drawn(replace(COUNTS, pairs=chain_of_two, overlaps=torch.tensor([1] + [0] * 9)), 20):
        assert all((two - one) % 56 == 1 for one, two in pairwise(first))
        assert second

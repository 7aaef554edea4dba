"""Counts of tokens against loops over texts with Counter, what is left out of them, and the files that hold them."""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from regmean_lab.statistics import (
    StatisticsError,
    TokensConfig,
    TokensFile,
    TokenStatistics,
    Vocabulary,
    collect_tokens,
    save_tokens,
)
from regmean_lab.statistics.histograms import LENGTH_EDGES
from regmean_lab.statistics.token_counter import TokenAccumulator

PAD, CLS, SEP, UNKNOWN = range(4)
SIZE = 60
SPECIAL = frozenset({PAD, CLS, SEP, UNKNOWN})
VOCABULARY = Vocabulary(tuple(f"w{id_}" for id_ in range(SIZE)), SPECIAL, frozenset({PAD, CLS, SEP}), "WordPiece")


def texts(count: int = 200, seed: int = 0) -> list[list[int]]:
    """Token ids, some of them frequent, some rare, some unknown."""
    draw = random.Random(seed)
    words = range(UNKNOWN, SIZE)
    return [
        draw.choices(words, [1 / (word - 2) for word in words], k=int(2 ** draw.uniform(0, 5))) for _ in range(count)
    ]


def batches(rows: Sequence[Sequence[int]], size: int = 7) -> list[dict[str, Tensor]]:
    made = []
    for start in range(0, len(rows), size):
        part = [[CLS, *row, SEP] for row in rows[start : start + size]]
        width = max(map(len, part))
        ids = torch.tensor([row + [PAD] * (width - len(row)) for row in part])
        made.append({"input_ids": ids, "attention_mask": (ids != PAD).long()})
    return made


def counted(rows: Sequence[Sequence[int]], **settings: Any) -> TokenStatistics:
    return collect_tokens(batches(rows), VOCABULARY, TokensConfig(**settings))


def naive(rows: Sequence[Sequence[int]], minimum: int) -> dict[str, int]:
    """Occurrences of the tokens that are in enough texts."""
    own = [[token for token in row if token not in SPECIAL] for row in rows]
    in_texts = Counter(token for row in {*map(tuple, own)} for token in {*row})
    times = Counter(token for row in own for token in row)
    return {f"w{token}": times[token] for token, count in in_texts.items() if count >= minimum}


def as_dict(statistics: TokenStatistics, row: int = 0) -> dict[str, int]:
    counts = statistics.counts
    return {token: n for token, n in zip(counts.tokens, counts.counts[row].tolist(), strict=True) if n}


@pytest.mark.parametrize("minimum", [1, 2, 5, 25])
def test_counts_are_those_of_a_loop(minimum: int) -> None:
    rows = texts()
    found = counted(rows, minimum_count=minimum)
    assert as_dict(found) == naive(rows, minimum)
    assert (found.examples, found.batches, found.privacy) == (200, 29, {})


def test_a_token_counts_by_the_texts_that_have_it_and_not_by_how_often_they_do() -> None:
    rows = [[10] * 50, [10] * 51, [10, 11], [11, 12], [12, 12, 11], [11, 10], [12, 11], [13, 14]]
    assert as_dict(counted(rows, minimum_count=5)) == {"w11": 5}
    assert as_dict(counted(rows, minimum_count=4)) == {"w10": 103, "w11": 5}
    assert as_dict(counted(rows, minimum_count=3)) == {"w10": 103, "w11": 5, "w12": 4}


def test_lengths_are_told_in_ranges_that_enough_texts_share() -> None:
    rows = [[10, 10, word] for word in range(10, 16)] + [[10] * 8 + [word] for word in range(10, 13)]
    rows += [[10] * 10 + [word] for word in (10, 11)] + [[10] * 40] + [[UNKNOWN]] * 9
    found = counted(rows).counts.lengths.tolist()
    assert found == [[3, 3, 6], [8, 11, 5]]  # neither the one of 40, nor those without any token that counts
    exact = Counter(len([token for token in row if token not in SPECIAL]) for row in texts())
    ranges = [(first, last, n) for first, last, n in counted(texts(), minimum_count=1).counts.lengths.tolist()]
    assert ranges == [(first, last, sum(exact[n] for n in range(first, last + 1))) for first, last, _ in ranges]
    assert all(first in LENGTH_EDGES for first, *_ in ranges)


def told(rows: Sequence[Sequence[int]], **settings: Any) -> tuple[set[Any], ...]:
    """Tokens, ranges of lengths and pairs of which a file tells anything."""
    found = counted(rows, **settings).counts
    pairs = [] if found.pairs is None else found.pairs.tolist()
    names = {(found.tokens[one], found.tokens[other]) for one, other, _ in pairs}
    return set(found.tokens), {(first, last) for first, last, _ in found.lengths.tolist()}, names


@pytest.mark.parametrize("pairs", [False, True])
def test_repeats_of_a_text_tell_nothing_of_it(pairs: bool) -> None:
    """Neighbours of a data set, which have one of its texts, or a new one, many times over."""
    rows = [*texts(60), list(range(40, 60)) * 3]
    before = told(rows, pairs=pairs)
    for repeated in [*rows[::7], rows[-1], [59, 58, 57]]:
        for size in (1, 100):  # in one batch, and in several
            more = [*rows, *[repeated] * 9] if size == 1 else [*[repeated] * 9, *rows]
            if repeated in rows:
                assert told(more, pairs=pairs) == before
            else:
                once = told([*rows, repeated], pairs=pairs)
                assert told(more, pairs=pairs) == once
    alike = [[UNKNOWN] * n + [50, UNKNOWN, 51] for n in range(9)]  # nothing that counts tells them apart
    assert told([*rows, *alike], pairs=pairs)[0] == told([*rows, alike[0]], pairs=pairs)[0]
    # How often what is told occurs is that of all texts.
    assert as_dict(counted([*rows, *[rows[0]] * 9])) == naive([*rows, *[rows[0]] * 9], 5)


def test_by_label_a_repeated_text_counts_once() -> None:
    accumulator = TokenAccumulator(VOCABULARY, 2, labels=2)
    for labels in ([0, 1, 1], [1, 0, 1]):
        ids = torch.tensor([[10, 11], [12, 13], [13, 12]])
        accumulator.add(ids, None, torch.tensor(labels))
    assert accumulator.texts.sum(0)[[10, 11, 12, 13]].tolist() == [1, 1, 2, 2]
    assert accumulator.compute().counts.tokens == ("w12", "w13")


def test_pairs_are_adjacent_tokens_that_enough_texts_have() -> None:
    rows = texts()
    found = counted(rows, pairs=True).counts
    assert found.pairs is not None
    every, in_texts = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for row in rows:
        own = [pair for pair in pairwise(row) if not SPECIAL & {*pair}]
        every.update(own)
    for row in {tuple(token for token in row if token != UNKNOWN): row for row in reversed(rows)}.values():
        in_texts.update({pair for pair in pairwise(row) if not SPECIAL & {*pair}})
    expected = {(f"w{one}", f"w{two}"): every[one, two] for (one, two), n in in_texts.items() if n >= 5}
    assert expected
    assert {(found.tokens[a], found.tokens[b]): n for a, b, n in found.pairs.tolist()} == expected


def test_by_label_each_label_has_its_own_threshold() -> None:
    rows, generator = texts(), torch.Generator().manual_seed(0)
    labels = torch.randint(3, (len(rows),), generator=generator)
    accumulator = TokenAccumulator(VOCABULARY, 5, labels=3)
    for number, batch in enumerate(batches(rows)):
        accumulator.add(batch["input_ids"], batch["attention_mask"], labels[7 * number : 7 * number + 7])
    found = accumulator.compute()
    for label in range(3):
        assert as_dict(found, label) == naive([row for row, own in zip(rows, labels, strict=True) if own == label], 5)


def test_how_many_texts_an_example_has_is_told_not_learned_from_one() -> None:
    pair = {"input_ids": torch.tensor([[CLS, 10, UNKNOWN, 11, SEP, 12, word, SEP] for word in range(20, 25)])}
    assert collect_tokens([pair], VOCABULARY).counts.parts == 1
    assert collect_tokens([pair], VOCABULARY, texts_per_example=2).counts.parts == 2
    with pytest.raises(StatisticsError, match="texts_per_example=3: expected 1 or 2"):
        collect_tokens([pair], VOCABULARY, texts_per_example=3)


def test_nothing_that_occurs_often_enough_is_an_error() -> None:
    with pytest.raises(StatisticsError, match="no token occurs in at least 5 different texts: count more texts"):
        counted([[10, 11]] * 9)
    with pytest.raises(StatisticsError, match="no range of lengths occurs in at least 5 different texts"):
        counted([[10] * 2**n for n in range(6)])
    with pytest.raises(StatisticsError, match="no batch was added"):
        counted([])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "tokens.safetensors"
    save_tokens(found, counted(texts(), pairs=True), {"settings": {"minimum_count": 5}})
    return found


def test_a_file_gives_back_what_was_counted(path: Path) -> None:
    expected, found = counted(texts(), pairs=True).counts, TokensFile(path).counts
    assert (found.tokens, found.vocabulary, found.parts) == (expected.tokens, VOCABULARY.describe(), 1)
    assert found.pairs is not None and expected.pairs is not None
    for one, two in zip(
        (found.counts, found.lengths, found.pairs), (expected.counts, expected.lengths, expected.pairs), strict=True
    ):
        assert one.dtype == torch.int64
        assert torch.equal(one, two)


def test_700_words_take_about_4_kilobytes(tmp_path: Path) -> None:
    words = ["".join(random.Random(n).choices("etaoinshrdlu", k=2 + n % 5)) + str(n % 7) for n in range(900)]
    words = list(dict.fromkeys(words))[:700]
    vocabulary = Vocabulary(("[PAD]", *words), frozenset({0}), frozenset({0}))
    ids = torch.stack([torch.arange(700).roll(shift) + 1 for shift in range(5)])
    save_tokens(tmp_path / "tokens.safetensors", collect_tokens([{"input_ids": ids}], vocabulary), {})
    assert (tmp_path / "tokens.safetensors").stat().st_size < 6000


def test_large_counts_are_kept(tmp_path: Path) -> None:
    found = counted([[10] * (4 + n) for n in range(2)], minimum_count=2)
    found.counts.counts[0, 0] = 3_000_000
    save_tokens(tmp_path / "tokens.safetensors", found, {})
    assert TokensFile(tmp_path / "tokens.safetensors").counts.counts.tolist() == [[3_000_000]]


def edited(path: Path, metadata: dict[str, str] | None = None, **tensors: Tensor) -> Path:
    """The file with other tensors, or other metadata."""
    with safe_open(path, framework="pt") as file:
        before = dict(file.metadata() or {})
    save_file({**load_file(path), **tensors}, path, metadata={**before, **(metadata or {})})
    return path


def packed(tokens: Any) -> Tensor:
    return torch.tensor(list(zlib.compress(json.dumps(tokens).encode())), dtype=torch.uint8)


def test_files_that_were_edited_by_hand_are_refused(path: Path) -> None:
    whole, lengths = path.read_bytes(), torch.tensor([[1, 4, 9]], dtype=torch.int32)
    own = TokensFile(path).counts
    width = len(own.tokens)
    minus = own.counts.int()
    minus[0, 3] = -1
    cases: list[tuple[dict[str, Any], str]] = [
        ({"counts": minus}, "counts: a negative number"),
        ({"counts": own.counts.float() + 0.5}, "tensor 'counts' is F32, expected U8 or U16 or I32"),
        ({"counts": own.counts.int()[:, 1:].contiguous()}, rf"counts: of shape \[1, {width - 1}\]"),
        ({"counts": own.counts.int()[0].contiguous()}, rf"counts: of shape \[{width}\]"),
        ({"counts": own.counts.int() * 0}, "no token is counted"),
        ({"lengths": lengths - 2}, "lengths: a negative number"),
        ({"lengths": lengths.flip(1).contiguous()}, "lengths: the range 9 to 4 does not follow 0"),
        ({"lengths": lengths[:, :2].contiguous()}, r"lengths: of shape \[1, 2\]"),
        ({"lengths": torch.cat([lengths, lengths])}, "lengths: the range 1 to 4 does not follow 4"),
        ({"pairs": torch.tensor([[0, width, 1]], dtype=torch.int32)}, f"pairs: number {width} of a token"),
        ({"tokens": packed(["a"] * width)}, "a token occurs twice"),
        ({"tokens": packed([1] * width)}, "its list of tokens is no list of texts"),
        ({"tokens": torch.zeros(9, dtype=torch.uint8)}, "its list of tokens cannot be read"),
        ({"more": torch.zeros(9, dtype=torch.uint8)}, "tensor 'more' not in metadata 'shared'"),
        ({"metadata": {"parts": "3"}}, "parts is 3, expected 1 or 2"),
        ({"metadata": {"vocabulary": '{"size": 3}'}}, "metadata 'vocabulary' does not describe a tokenizer's"),
    ]
    for change, message in cases:
        path.write_bytes(whole)
        with pytest.raises(StatisticsError, match=message) as caught:
            TokensFile(edited(path, **change))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"minimum_count": 0}, "minimum_count: expected at least 1, got 0"),
        ({"epsilon": 0.0}, "epsilon: expected a number of at least 0.001, got 0.0"),
        ({"epsilon": -1.0}, "epsilon: expected a number of at least 0.001, got -1.0"),
        ({"epsilon": float("nan")}, "epsilon: expected a number of at least 0.001, got nan"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta: expected a number between 0 and 1, or null, got 0.0"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta: expected a number between 0 and 1, or null, got 1.0"),
        ({"delta": 1e-6}, "delta: is for epsilon, which is not set; expected null, got 1e-06"),
        ({"epsilon": 1.0, "tokens_per_text": 0}, "tokens_per_text: expected at least 1, got 0"),
        (
            {"pairs": True, "by_label": True},
            "pairs: are of all texts together; expected by_label=false, or pairs=false",
        ),
        (
            {"epsilon": 1.0, "pairs": True},
            "pairs: there are too many that could occur to add noise to all; with epsilon, expected false",
        ),
        (
            {"epsilon": 1.0, "by_label": True},
            "by_label: labels depend on other texts of a batch; with epsilon, expected false",
        ),
        (
            {"epsilon": 1.0, "examples": 100},
            "examples: which are drawn depends on how many there are, so that one more text could change them all; "
            "with epsilon, expected null",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], problem: str) -> None:
    assert TokensConfig(**settings).problems() == [problem]

"""Pseudo-text as batches: the special tokens are the tokenizer's own, of every architecture."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, ByT5Tokenizer, CanineTokenizer, PreTrainedTokenizerBase

from regmean_lab.models.pico import pico_folder
from regmean_lab.statistics.token_counts import TokenCounts
from regmean_lab.suites.pseudo_text import Frame, pseudo_loader, vocabulary_of

ARCHITECTURES = ["bert", "roberta", "distilbert", "deberta_v2", "t5", "gpt2"]


def tokenizer_of(architecture: str, cache: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(pico_folder(architecture, cache))


def counts_of(tokenizer: PreTrainedTokenizerBase, parts: int = 1) -> TokenCounts:
    vocabulary = vocabulary_of(tokenizer)
    tokens = tuple(list(vocabulary.ids)[-40:])
    counts = torch.arange(1, 41).unsqueeze(0)
    return TokenCounts(tokens, counts, torch.tensor([[2, 9, 5], [20, 30, 3]]), vocabulary.describe(), parts=parts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_special_tokens_stand_where_the_tokenizer_puts_them(architecture: str, pico_cache: Path) -> None:
    tokenizer = tokenizer_of(architecture, pico_cache)
    one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the river", "was happy today"))
    for texts, parts in ((("the river",), [one]), (("the river", "was happy today"), [one, two])):
        expected = tokenizer(*texts, return_attention_mask=True)
        assert Frame(tokenizer, len(parts)).around(parts).inputs == dict(expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vocabularies_leave_special_tokens_out(architecture: str, pico_cache: Path) -> None:
    tokenizer = tokenizer_of(architecture, pico_cache)
    vocabulary = vocabulary_of(tokenizer)
    assert set(vocabulary.ids.values()) == set(range(len(tokenizer))) - set(tokenizer.all_special_ids)
    assert all(tokenizer.convert_ids_to_tokens(id_) == token for token, id_ in vocabulary.ids.items())
    assert (tokenizer.unk_token_id in vocabulary.separators) == (architecture == "gpt2")


@pytest.mark.parametrize(
    ("tokenizer", "one", "two"),
    [(ByT5Tokenizer(), [1], [1, 1]), (CanineTokenizer(), [57344, 57345], [57344, 57345, 57345])],
    ids=["ByT5", "Canine"],
)
def test_tokenizers_in_python_have_frames_and_vocabularies_too(
    tokenizer: PreTrainedTokenizerBase, one: list[int], two: list[int]
) -> None:
    assert list(Frame(tokenizer, 1).tokens) == one
    assert list(vocabulary_of(tokenizer).pair_frame) == list(Frame(tokenizer, 2).tokens) == two
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the river", "sun")]
    expected = tokenizer("the river", "sun")
    assert Frame(tokenizer, 2).around(parts).inputs["input_ids"] == expected["input_ids"]


def test_batches_hold_what_was_drawn_whatever_their_size(pico_cache: Path) -> None:
    tokenizer = tokenizer_of("bert", pico_cache)
    counts = counts_of(tokenizer)

    def rows(**settings: int) -> list[list[int]]:
        batches = pseudo_loader(counts, tokenizer, seed=3, examples=40, **settings)
        return [
            ids[mask.bool()].tolist()
            for batch in batches
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]

    plain = rows(batch_size=7)
    assert sorted(plain) == sorted(rows(batch_tokens=64))
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in plain)
    assert all(4 <= len(row) <= 11 or 22 <= len(row) <= 32 for row in plain)
    short = rows(batch_size=7, max_length=12)
    assert max(map(len, short)) == 12
    widest = max(
        batch["input_ids"].numel() for batch in pseudo_loader(counts, tokenizer, seed=3, examples=40, batch_tokens=64)
    )
    assert widest <= 64


def test_without_a_number_there_is_no_end(pico_cache: Path) -> None:
    tokenizer = tokenizer_of("bert", pico_cache)
    counts = counts_of(tokenizer)
    batches = list(itertools.islice(pseudo_loader(counts, tokenizer, seed=3, batch_size=8), 30))
    some = list(pseudo_loader(counts, tokenizer, seed=3, examples=24, batch_size=8))
    later = next(iter(pseudo_loader(counts, tokenizer, seed=3, batch_size=8, first=16)))
    for name in ("input_ids", "attention_mask"):
        assert all(torch.equal(one[name], two[name]) for one, two in zip(batches, some, strict=False))
        assert torch.equal(later[name], batches[2][name])
    assert len({tuple(row.tolist()) for batch in batches for row in batch["input_ids"]}) > 200


def test_pairs_are_two_texts(pico_cache: Path) -> None:
    tokenizer = tokenizer_of("bert", pico_cache)
    (batch,) = pseudo_loader(counts_of(tokenizer, parts=2), tokenizer, seed=0, examples=10)
    assert ((batch["input_ids"] == tokenizer.sep_token_id).sum(1) == 2).all()

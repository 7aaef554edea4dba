from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import PreTrainedTokenizerBase

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import shared_tokenizer
from regmean_lab.suites import encoded
from regmean_lab.suites.base import Example, Task
from regmean_lab.suites.encoded import encode_once
from regmean_lab.suites.encoding import encode

TASK = Task("single_label", ("no", "yes"), "accuracy")
EXAMPLES = [Example(f"the river was number {number}", number % 2) for number in range(6)]


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = encoded._kept.copy()
    encoded._kept.clear()
    yield
    encoded._kept.clear()
    encoded._kept.update(before)


@pytest.fixture
def tokenizer(pico_cache) -> PreTrainedTokenizerBase:
    return shared_tokenizer(find_checkpoint(ModelConfig("pico", "pico:bert"), pico_cache))


def test_examples_are_encoded_as_always(tokenizer: PreTrainedTokenizerBase) -> None:
    for max_length in (None, 4):
        assert encode_once(EXAMPLES, TASK, tokenizer, max_length) == encode(EXAMPLES, tokenizer, max_length)


def test_equal_examples_are_encoded_once_and_the_list_is_the_callers_own(tokenizer: PreTrainedTokenizerBase) -> None:
    first = encode_once(EXAMPLES, TASK, tokenizer, 8)
    second = encode_once([Example(example.text, example.label) for example in EXAMPLES], TASK, tokenizer, 8)
    assert all(one is other for one, other in zip(first, second, strict=True))
    first.clear()
    assert len(encode_once(EXAMPLES, TASK, tokenizer, 8)) == len(EXAMPLES)


@pytest.mark.parametrize("changed", ["label", "max_length", "tokenizer", "task"])
def test_whatever_changes_the_encoding_makes_another_one(
    changed: str, tokenizer: PreTrainedTokenizerBase, pico_cache
) -> None:
    encode_once(EXAMPLES, TASK, tokenizer, 8)
    examples = [Example(EXAMPLES[0].text, 1), *EXAMPLES[1:]] if changed == "label" else EXAMPLES
    task = Task("single_label", ("nein", "ja"), "accuracy") if changed == "task" else TASK
    other = find_checkpoint(ModelConfig("pico", "pico:bert"), pico_cache).tokenizer()
    encode_once(examples, task, other if changed == "tokenizer" else tokenizer, 4 if changed == "max_length" else 8)
    assert len(encoded._kept) == 2


def test_what_was_used_longest_ago_is_given_up(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "MOST_EXAMPLES", 12)
    for number in (3, 4, 5):
        encode_once(EXAMPLES[:number], TASK, tokenizer, 8)
    assert [len(part) for _, part in encoded._kept.values()] == [3, 4, 5]
    encode_once(EXAMPLES[:3], TASK, tokenizer, 8)
    encode_once(EXAMPLES[:2], TASK, tokenizer, 8)
    assert [len(part) for _, part in encoded._kept.values()] == [5, 3, 2]

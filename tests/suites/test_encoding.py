from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from regmean_lab.suites.base import IGNORED, Example, Task
from regmean_lab.suites.encoding import Collator, encode

SINGLE = Task("single_label", ("no", "yes"), "macro_f1")


def test_sentences_become_lists_of_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = encode([Example("a b c", 1), Example("d", 0)], tokenizer, 16)
    assert first.inputs == {"input_ids": [1, 4, 5, 6, 2], "token_type_ids": [0] * 5, "attention_mask": [1] * 5}
    assert (first.length, first.label) == (5, 1)
    assert second.inputs["input_ids"] == [1, 7, 2]


def test_long_sentences_are_cut_special_tokens_included(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encode([Example("a b c d e f", 0)], tokenizer, 5)
    assert example.inputs["input_ids"] == [1, 4, 5, 6, 2]


def test_no_maximum_cuts_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encode([Example("a " * 600, 0)], tokenizer, None)
    assert example.length == 602


def test_pairs_of_sentences(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encode([Example("a b", 0, "c")], tokenizer, 16)
    assert example.inputs["input_ids"] == [1, 4, 5, 2, 6, 2]
    assert example.inputs["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_pairs_among_single_sentences_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="1 of 2 examples are pairs"):
        encode([Example("a", 0, "b"), Example("c", 0)], tokenizer, 16)


def test_nothing_to_encode(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode([], tokenizer, 16) == []


def test_batch_is_padded_to_its_longest_example(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = Collator(tokenizer, SINGLE)(encode([Example("a b c", 1), Example("d", 0)], tokenizer, 16))
    assert batch["input_ids"].tolist() == [[1, 4, 5, 6, 2], [1, 7, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert type(batch) is dict


def test_no_token_types_where_the_tokenizer_makes_none(tokenizer_without_types: PreTrainedTokenizerFast) -> None:
    batch = Collator(tokenizer_without_types, SINGLE)(encode([Example("a", 1)], tokenizer_without_types, 16))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_length_is_rounded_up(tokenizer: PreTrainedTokenizerFast) -> None:
    collate = Collator(tokenizer, SINGLE, pad_to_multiple_of=8)
    assert collate(encode([Example("a b c", 1)], tokenizer, 16))["input_ids"].shape == (1, 8)
    assert collate(encode([Example("a b c d e f g", 1)], tokenizer, 16))["input_ids"].shape == (1, 16)


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        (SINGLE, [1, 0], torch.tensor([1, 0])),
        (Task("regression", ("score",), "pearson"), [1.5, -2], torch.tensor([1.5, -2.0])),
        (
            Task("multi_label", ("x", "y"), "macro_f1"),
            [(1, IGNORED), (0, 1)],
            torch.tensor([[1, -100], [0, 1]]),
        ),
    ],
)
def test_labels_have_the_form_of_the_task(
    tokenizer: PreTrainedTokenizerFast, task: Task, labels: list, expected: torch.Tensor
) -> None:
    examples = [Example("a", label) for label in labels]
    batch = Collator(tokenizer, task)(encode(examples, tokenizer, 16))
    torch.testing.assert_close(batch["labels"], expected, rtol=0, atol=0)


def test_tokenizer_without_padding_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"no padding token: set tokenizer\.pad_token"):
        Collator(tokenizer, SINGLE)

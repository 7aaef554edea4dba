from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerFast

from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.encoding import encoding_of
from regmean_lab.suites.text_encoding import EncodedText, TextCollator, TextExample, encode_texts

TEXT = Task("text", (), "loss")


def test_the_kind_of_task_has_this_encoding() -> None:
    assert encoding_of(TEXT) == (encode_texts, TextCollator)


def test_of_a_text_each_token_is_followed_by_another(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = encode_texts([TextExample("a b c"), TextExample("d e f g h")], tokenizer, 5)
    assert first == EncodedText((1, 4, 5, 6), (4, 5, 6, 2), False)
    assert second == EncodedText((1, 7, 8, 9), (7, 8, 9, 2), False)
    assert (first.length, second.length) == (4, 4)


def test_a_single_token_is_read_and_predicts_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.post_processor = None
    assert encode_texts([TextExample("a"), TextExample("")], tokenizer, 8) == [EncodedText((4,), (IGNORED,), False)]


def test_a_target_is_cut_like_its_text(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encode_texts([TextExample("a b c d", "e f g h")], tokenizer, 4)
    assert example == EncodedText((1, 4, 5, 2), (1, 8, 9, 2), True)
    assert example.length == 8
    assert encode_texts([], tokenizer, 4) == []


def test_batches_of_texts_are_aligned(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_texts([TextExample("a b"), TextExample("c")], tokenizer, None)
    batch = TextCollator(tokenizer, TEXT, 4)(encoded)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 0], [1, 6, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[4, 5, 2, IGNORED], [6, 2, IGNORED, IGNORED]]


def test_batches_of_pairs_have_two_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_texts([TextExample("a b", "c"), TextExample("a", "d e f")], tokenizer, None)
    batch = TextCollator(tokenizer, TEXT)(encoded)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 2], [1, 4, 2, 0]]
    assert batch["labels"].tolist() == [[1, 6, 2, IGNORED, IGNORED], [1, 7, 8, 9, 2]]
    assert all(tensor.dtype == torch.long for tensor in batch.values())

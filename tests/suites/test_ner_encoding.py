from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CanineTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from regmean_lab.models.pico import pico_folder
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.conll import LABELS, TokenExample
from regmean_lab.suites.encoding import encoding_of
from regmean_lab.suites.token_encoding import TokenCollator, encode_tokens

TASK = Task("token_labels", LABELS, "entity_f1")
ENCODERS = ("bert", "roberta", "distilbert", "deberta_v2")
SELECTOR = "\ufe0f"
"""A variation selector, which tweets have as a word of its own."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cache = tmp_path_factory.mktemp("pico")
    return {architecture: pico_folder(architecture, cache) for architecture in ENCODERS}


@pytest.fixture(scope="module")
def word_piece(folders: dict[str, Path]) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folders["bert"])


@pytest.fixture(scope="module")
def byte_pairs(folders: dict[str, Path]) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folders["roberta"])


def example(text: str, tags: str = "") -> TokenExample:
    tokens = tuple(text.split(" "))
    return TokenExample(tokens, tuple(tags.split(" ")) if tags else ("O",) * len(tokens))


def test_tokens_are_encoded_here() -> None:
    assert encoding_of(TASK) == (encode_tokens, TokenCollator)


def test_first_sub_token_of_each_word_has_its_tag(word_piece: PreTrainedTokenizerFast) -> None:
    sentence = example("London signed the agreement unbelievably .", "B-LOC O B-ORG I-ORG O O")
    (encoded,) = encode_tokens([sentence], word_piece, None)
    ids, tags = [word_piece.cls_token_id], [None]
    for word, tag in zip(sentence.tokens, sentence.tags, strict=True):
        pieces = word_piece(word, add_special_tokens=False)["input_ids"]
        ids += pieces
        tags += [tag, *[None] * (len(pieces) - 1)]
    assert encoded.inputs["input_ids"] == [*ids, word_piece.sep_token_id]
    assert encoded.inputs["attention_mask"] == [1] * (len(ids) + 1)
    assert encoded.tags == [*tags, None]
    assert encoded.length == len(ids) + 1 > len(sentence.tokens) + 2


def test_same_tokens_as_roberta_with_a_space_before_every_word(folders: dict[str, Path]) -> None:
    """RoBERTa's own tokenizer has a switch for words; ours need not be set."""
    model = json.loads((folders["roberta"] / "tokenizer.json").read_text())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    switched = RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=True)
    words = ["EU", "rejects", "the", "New-York", "(", "£", "don't", ":)"]
    expected = switched(words, is_split_into_words=True)
    unswitched = [
        RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=False),
        AutoTokenizer.from_pretrained(folders["roberta"]),
        switched,
    ]
    without = unswitched[0](words, is_split_into_words=True)
    assert without["input_ids"] != expected["input_ids"]
    for tokenizer in unswitched:
        (encoded,) = encode_tokens([TokenExample(tuple(words), ("O",) * len(words))], tokenizer, None)
        assert encoded.inputs["input_ids"] == expected["input_ids"]
        begins = [tag is not None for tag in encoded.tags]
        word_ids = expected.word_ids()
        assert begins == [word is not None and word not in word_ids[:n] for n, word in enumerate(word_ids)]


@pytest.mark.parametrize("architecture", ENCODERS)
def test_every_word_is_labelled(folders: dict[str, Path], architecture: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[architecture])
    words = ("Paris", SELECTOR, "", "\u200b", "\u3000", "🎉", "x" * 300, "\u00ad", "Paris")
    tags = ("B-LOC", "I-LOC", "B-PER", "O", "O", "O", "I-ORG", "O", "B-LOC")
    (encoded,) = encode_tokens([TokenExample(words, tags)], tokenizer, None)
    assert [tag for tag in encoded.tags if tag is not None] == list(tags)


def test_words_that_give_no_token_become_unknown(word_piece: PreTrainedTokenizerFast) -> None:
    plain, odd = encode_tokens([example("a river"), example(f"a {SELECTOR} river", "O B-LOC O")], word_piece, None)
    ids = plain.inputs["input_ids"]
    place = ids.index(word_piece("river", add_special_tokens=False)["input_ids"][0])
    assert odd.inputs["input_ids"] == [*ids[:place], word_piece.unk_token_id, *ids[place:]]
    assert odd.tags[place] == "B-LOC"


def test_no_token_for_a_word_and_no_unknown_token(folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    tokenizer.unk_token = None
    assert len(encode_tokens([example("a river")], tokenizer, None)) == 1
    with pytest.raises(ValueError, match=r"no token of the word '\\ufe0f', and has no unknown token"):
        encode_tokens([example(f"a {SELECTOR}")], tokenizer, None)


def test_long_sentences_are_split_and_not_cut(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    sentences = [example("a b c d e f g", "O O O O O B-PER O"), example("h"), example("a b c", "O O B-LOC")]
    with caplog.at_level(logging.INFO):
        encoded = encode_tokens(sentences, tokenizer, 5)
    assert [item.inputs["input_ids"] for item in encoded] == [
        [1, 4, 5, 6, 2],
        [1, 7, 8, 9, 2],
        [1, 10, 2],
        [1, 11, 2],
        [1, 4, 5, 6, 2],
    ]
    assert [item.tags for item in encoded[:3]] == [
        [None, "O", "O", "O", None],
        [None, "O", "O", "B-PER", None],
        [None, "O", None],
    ]
    assert encoded[0].inputs["token_type_ids"] == [0] * 5
    assert caplog.messages == ["1 of 3 sentences are longer than 5 tokens and are given to the model in parts"]


@pytest.mark.parametrize(
    ("tags", "lengths"),
    [
        ("O O B-PER I-PER O O", [2, 3, 1]),
        ("O B-PER I-PER I-PER O O", [1, 3, 2]),
        ("O O B-PER B-PER O O", [3, 3]),
        ("O O B-PER I-LOC O O", [3, 3]),
        ("O O I-PER I-PER O O", [2, 3, 1]),
        ("O O O I-PER O O", [3, 3]),
        ("B-PER I-PER I-PER I-PER O O", [3, 3]),
        ("O B-ORG I-ORG I-ORG I-ORG I-ORG", [1, 3, 2]),
    ],
)
def test_parts_do_not_end_inside_an_entity(tokenizer: PreTrainedTokenizerFast, tags: str, lengths: list[int]) -> None:
    """Unless the entity is longer than a part: then it is cut at a part's full length."""
    encoded = encode_tokens([example("a b c d e f", tags)], tokenizer, 5)
    assert [item.length - 2 for item in encoded] == lengths


def test_the_tokenizer_knows_what_the_model_can_take(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.model_max_length = 4
    for max_length in (None, 100):
        assert [item.length for item in encode_tokens([example("a b c")], tokenizer, max_length)] == [4, 3]
    assert [item.length for item in encode_tokens([example("a b c")], tokenizer, 3)] == [3, 3, 3]


def test_too_long_words_keep_their_first_tokens(word_piece: PreTrainedTokenizerFast) -> None:
    url = "http://example.org/" + "page" * 20
    encoded = encode_tokens([example(f"see {url} now", "O B-ORG O")], word_piece, 8)
    assert [[tag for tag in item.tags if tag] for item in encoded] == [["O"], ["B-ORG"], ["O"]]
    pieces = word_piece(url, add_special_tokens=False)["input_ids"]
    assert encoded[1].inputs["input_ids"] == [word_piece.cls_token_id, *pieces[:6], word_piece.sep_token_id]


WORDS = st.sampled_from(["a", "river", "unbelievably", "http://example.org", SELECTOR, "London", "(", ""])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(WORDS, st.sampled_from(LABELS)), min_size=1, max_size=30), st.integers(3, 20))
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_parts_hold_every_word_once(
    folders: dict[str, Path], architecture: str, words: list[tuple[str, str]], max_length: int
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[architecture])
    sentence = TokenExample(*zip(*words, strict=True))
    (whole,) = encode_tokens([sentence], tokenizer, None)
    parts = encode_tokens([sentence], tokenizer, max_length)
    assert all(part.length <= max_length for part in parts)
    assert [tag for part in parts for tag in part.tags if tag] == list(sentence.tags)
    if sum(part.length - 2 for part in parts) == whole.length - 2:  # no word was too long
        assert [n for part in parts for n in part.inputs["input_ids"][1:-1]] == whole.inputs["input_ids"][1:-1]
    else:
        assert max(len(tokenizer(f" {word}")["input_ids"]) for word in sentence.tokens) > max_length


def test_no_room_for_a_word(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="max_length=2: the special tokens leave no room"):
        encode_tokens([example("a")], tokenizer, 2)


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(ValueError, match="CanineTokenizer is not a fast tokenizer"):
        encode_tokens([example("a")], CanineTokenizer(), None)  # type: ignore[arg-type]


def test_nothing_to_encode(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode_tokens([], tokenizer, 16) == []


def test_batch_is_padded_and_its_padding_ignored(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = encode_tokens([example("a b c", "B-PER I-PER O"), example("d", "I-ORG")], tokenizer, None)
    batch = TokenCollator(tokenizer, TASK)(encoded)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 6, 2], [1, 7, 2, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    x = IGNORED
    assert batch["labels"].tolist() == [[x, 1, 4, 0, x], [x, 6, x, x, x]]
    assert batch["labels"].dtype == torch.int64
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert type(batch) is dict


def test_padding_on_the_left(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.padding_side = "left"
    encoded = encode_tokens([example("a b c", "B-PER I-PER O"), example("d", "I-ORG")], tokenizer, None)
    batch = TokenCollator(tokenizer, TASK, pad_to_multiple_of=3)(encoded)
    x = IGNORED
    assert batch["input_ids"].tolist() == [[0, 1, 4, 5, 6, 2], [0, 0, 0, 1, 7, 2]]
    assert batch["labels"].tolist() == [[x, x, 1, 4, 0, x], [x, x, x, x, 6, x]]


def test_no_token_types_where_the_tokenizer_makes_none(tokenizer_without_types: PreTrainedTokenizerFast) -> None:
    encoded = encode_tokens([example("a")], tokenizer_without_types, None)
    assert set(TokenCollator(tokenizer_without_types, TASK)(encoded)) == {"input_ids", "attention_mask", "labels"}


def test_tokenizer_without_padding_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        TokenCollator(tokenizer, TASK)

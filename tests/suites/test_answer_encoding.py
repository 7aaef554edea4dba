from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from regmean_lab.models.pico import pico_folder
from regmean_lab.suites.answer_encoding import AnswerCollator, AnswerTokens, EncodedQuestion, encode_questions
from regmean_lab.suites.answers import AnswerExample, Wording
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.emotion_text import WORDINGS
from regmean_lab.suites.encoding import encoding_of

TASK = Task("answers", ("joy", "fear"), "macro_f1")
SENTENCE = "The river rose after a week of rain"
LONG = f"{SENTENCE}, and the people of the village moved their books and beds upstairs"


@pytest.fixture(scope="module")
def t5(pico_cache: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(pico_folder("t5", pico_cache))


@pytest.fixture(scope="module")
def gpt2(pico_cache: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(pico_folder("gpt2", pico_cache))
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def question(
    text: str = SENTENCE, answer: int = 1, label: int = 0, wordings: tuple[Wording, ...] = WORDINGS
) -> AnswerExample:
    return AnswerExample(text, (answer, label), subject=TASK.labels[label], wordings=wordings)


def answer_texts(tokenizer: PreTrainedTokenizerBase, answers: AnswerTokens) -> list[str]:
    return [tokenizer.decode(answers.written(answer)) for answer in (0, 1)]


def test_encoder_decoders_are_asked_text_to_text(t5: PreTrainedTokenizerBase) -> None:
    (encoded,) = encode_questions([question()], t5, 64)
    assert t5.decode(encoded.tokens) == t5.decode(
        t5(f"does the sentence express joy? <extra_id_0> {SENTENCE}").input_ids
    )
    assert encoded.tokens[-1] == t5.eos_token_id
    assert t5.convert_ids_to_tokens(encoded.answers.written(1)) == ["<extra_id_0>", "▁yes", "</s>"]
    assert t5.convert_ids_to_tokens(encoded.answers.written(0)) == ["<extra_id_0>", "▁no", "</s>"]
    assert t5.convert_ids_to_tokens(encoded.answers.prefix) == ["<extra_id_0>"]
    assert [len(option) for option in encoded.answers.options] == [1, 1]
    assert encoded.answers.end == (t5.eos_token_id,)
    assert (encoded.label, encoded.length) == ((1, 0), len(encoded.tokens))


def test_decoders_continue_the_sentence(gpt2: PreTrainedTokenizerBase) -> None:
    first, second = encode_questions([question(), question("She cried", 0, 1)], gpt2, 64)
    assert gpt2.decode(first.tokens) == f"{SENTENCE} The sentence expresses joy."
    assert gpt2.decode(second.tokens) == "She cried The sentence expresses fear."
    assert answer_texts(gpt2, first.answers) == [" no", " yes"]
    assert (first.answers.prefix, first.answers.end) == ((), ())
    # Question and answer together have the tokens that the whole text has.
    whole = gpt2(f"{SENTENCE} The sentence expresses joy. yes").input_ids
    assert [*first.tokens, *first.answers.written(1)] == whole


def test_a_single_wording_is_taken_whatever_the_tokenizer(
    t5: PreTrainedTokenizerBase, gpt2: PreTrainedTokenizerBase
) -> None:
    (encoded,) = encode_questions([question(wordings=WORDINGS[:1])], gpt2, 64)
    assert gpt2.decode(encoded.tokens) == f"does the sentence express joy? <extra_id_0> {SENTENCE}"
    assert answer_texts(gpt2, encoded.answers) == ["<extra_id_0> no", "<extra_id_0> yes"]
    (encoded,) = encode_questions([question(wordings=WORDINGS[1:])], t5, 64)
    assert t5.convert_ids_to_tokens(encoded.answers.written(1)) == ["▁yes"]


@pytest.mark.parametrize("room", [3, 8, 15])
def test_the_text_is_cut_and_the_question_stays(
    t5: PreTrainedTokenizerBase, gpt2: PreTrainedTokenizerBase, room: int
) -> None:
    for tokenizer, before, after in (
        (t5, "does the sentence express joy? <extra_id_0> ", ""),
        (gpt2, "", " The sentence expresses joy."),
    ):
        longest = len(tokenizer(f"{before}{after}").input_ids) + room
        (encoded,) = encode_questions([question(LONG)], tokenizer, longest)
        assert longest - 2 <= encoded.length <= longest
        shortened = [tokenizer(f"{before}{LONG[:end]}{after}").input_ids for end in range(1, len(LONG))]
        assert list(encoded.tokens) in shortened
        (whole,) = encode_questions([question(LONG)], tokenizer, None)
        assert whole.length > longest


def test_no_room_for_a_text_is_an_error(gpt2: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"max_length=5: the question .* leaves no room for a text"):
        encode_questions([question()], gpt2, 5)


@pytest.mark.parametrize("answers", [(" no", " no"), (" no", " no yes"), (" yes no", " yes")])
def test_answers_that_cannot_be_told_apart_are_an_error(
    gpt2: PreTrainedTokenizerBase, answers: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match="one begins with the other"):
        encode_questions([question(wordings=(Wording("causal", "{text} {subject}.", answers),))], gpt2, 64)


def test_nothing_to_encode(t5: PreTrainedTokenizerBase) -> None:
    assert encode_questions([], t5, 64) == []


def test_a_batch_holds_questions_answers_and_targets(t5: PreTrainedTokenizerBase) -> None:
    encode, make_collator = encoding_of(TASK)
    encoded = encode([question(), question("I cried", 0, 1)], t5, 64)
    batch = make_collator(t5, TASK, None)(encoded)
    sentinel, no, yes, end = t5.convert_tokens_to_ids(["<extra_id_0>", "▁no", "▁yes", "</s>"])
    lengths = [len(part.tokens) for part in encoded]  # type: ignore[attr-defined]
    assert lengths[1] < lengths[0]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, lengths[0])
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert set(batch["input_ids"][1, lengths[1] :].tolist()) == {t5.pad_token_id}
    assert batch["answer_prefix"].tolist() == [[sentinel], [sentinel]]
    assert batch["answers"].tolist() == [[[no], [yes]]] * 2
    assert batch["target"].tolist() == [[sentinel, yes, end], [sentinel, no, end]]
    assert batch["labels"].tolist() == [[1, 0], [0, 1]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_answers_of_different_lengths_are_padded(gpt2: PreTrainedTokenizerBase) -> None:
    answers = AnswerTokens((9,), ((5,), (6, 7)), (3,))
    examples = [EncodedQuestion((1, 2), answers, (answer, 0)) for answer in (0, 1)]
    batch = AnswerCollator(gpt2, TASK)(examples)
    assert batch["answers"].tolist() == [[[5, IGNORED], [6, 7]]] * 2
    assert batch["target"].tolist() == [[9, 5, 3, IGNORED], [9, 6, 7, 3]]
    no_prefix = AnswerCollator(gpt2, TASK)([EncodedQuestion((1,), AnswerTokens((), ((5,), (6,)), ()), (0, 0))])
    assert no_prefix["answer_prefix"].shape == (1, 0)
    assert no_prefix["target"].tolist() == [[5]]


def test_length_is_rounded_up(gpt2: PreTrainedTokenizerBase) -> None:
    (encoded,) = encode_questions([question("I cried")], gpt2, 64)
    batch = AnswerCollator(gpt2, TASK, pad_to_multiple_of=16)([encoded])
    assert batch["input_ids"].shape == (1, -(-encoded.length // 16) * 16)


def test_tokenizer_without_padding_is_refused(pico_cache: Path) -> None:
    with pytest.raises(ValueError, match="no padding token"):
        AnswerCollator(AutoTokenizer.from_pretrained(pico_folder("gpt2", pico_cache)), TASK)

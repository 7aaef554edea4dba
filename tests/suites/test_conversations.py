"""Columns of messages, and the tokens that a chat template makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_columns import TEXT, chosen, table
from transformers import PreTrainedTokenizerFast

from regmean_lab.checkpoints.recipe.chat_templates import TEMPLATES
from regmean_lab.suites.base import DataError, Task
from regmean_lab.suites.tables.columns import Columns, examples_fingerprint, examples_of
from regmean_lab.suites.tables.table import read_table
from regmean_lab.suites.text_encoding import Conversation, TextExample, encode_texts, template_problem
from regmean_lab.suites.text_generation import TextGenerationSettings, TextGenerationSuite

ASKED = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c ü"}]
SIMPLE = "{% for m in messages %}<s> {{ m['role'][0] }} {{ m['content'] }} {% endfor %}</s>"
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('begin with a user') }}{% endif %}" + SIMPLE


def conversations(*rows: Any, task: Task = TEXT) -> list[Any]:
    found = table(*({"messages": row} for row in rows))
    return examples_of(found, chosen(found, task), task)


def test_messages_are_what_a_decoder_reads_where_there_are_no_texts() -> None:
    assert chosen(table({"id": 1, "messages": ASKED}), TEXT) == Columns(("messages",))
    assert chosen(table({"text": "a", "messages": ASKED}), TEXT) == Columns(("text",))
    with pytest.raises(DataError, match="text: which column holds the texts is not obvious"):
        chosen(table({"id": 1, "messages": ASKED}), TEXT, has_encoder=True)


def test_a_conversation_keeps_all_of_its_messages() -> None:
    tools = [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}, {"role": "tool", "content": "1"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    found = conversations(ASKED, tools, parts, json.dumps(ASKED))
    assert [json.loads(example.text) for example in found] == [ASKED, tools, parts, ASKED]
    assert {type(example) for example in found} == {Conversation}
    assert examples_fingerprint(found[:1]) == examples_fingerprint(found[3:])
    assert examples_fingerprint(found[:1]) != examples_fingerprint([TextExample(found[0].text)])
    assert conversations("a text") == [TextExample("a text")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected a list of messages, each with role and content, found none"),
        (["a"], "message 1: expected role and content, found 'a'"),
        (
            [ASKED[0], {"from": "human", "value": "a"}],
            r"message 2: expected role \(system, user or .*found from, value",
        ),
        ([{"role": "user"}], "message 1: content: expected a text, found None"),
        ([{"role": "user", "content": 3}], "content: expected a text, found 3"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content: only texts are read, found {'type': 'image'}"),
        ('[{"role": "user"', "messages: expected a list of messages, each with role and content, found no JSON"),
        (7, "messages: expected a text, found 7"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_row(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.csv: row 2: .*{message}"):
        conversations(ASKED, value)


def test_empty_conversations_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    empty = [{"role": "user", "content": " "}]
    assert len(conversations(ASKED, empty)) == 2
    assert "1 of 2 texts are empty" in caplog.text
    with pytest.raises(DataError, match="all texts are empty"):
        conversations(empty)


def test_a_target_beside_messages_is_refused() -> None:
    found = table({"messages": ASKED, "answer": "b"})
    with pytest.raises(DataError, match="messages hold what is read and what is written"):
        examples_of(found, Columns(("messages",), "answer"), Task("text", ("causal",), "loss"))


@pytest.mark.parametrize("template", [SIMPLE, TEMPLATES["chatml"]])
def test_tokens_are_those_of_the_chat_template(template: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = template
    examples = [*conversations(ASKED, [*ASKED, *ASKED]), TextExample("a b")]
    encoded = encode_texts(examples, tokenizer, 7)
    for example, found in zip(examples[:2], encoded, strict=False):
        ids = tokenizer.apply_chat_template(json.loads(example.text), tokenize=True, return_dict=False)[:7]
        assert (found.tokens, found.target) == (tuple(ids[:-1]), tuple(ids[1:]))
    assert encoded[2] == encode_texts([TextExample("a b")], tokenizer, 7)[0]  # with its special tokens


def test_a_tokenizer_without_a_template_is_told_before(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = conversations(ASKED)
    assert "put the one that the model was trained with into its folder (chat_template.jinja)" in str(
        template_problem(examples, lambda: tokenizer)
    )
    with pytest.raises(DataError, match="no chat template"):
        encode_texts(examples, tokenizer, None)
    assert template_problem([TextExample("a")], lambda: 1 / 0) is None  # type: ignore[arg-type, return-value]
    tokenizer.chat_template = SIMPLE
    assert template_problem(examples, lambda: tokenizer) is None


def test_a_conversation_that_the_template_refuses_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = STRICT
    with pytest.raises(DataError, match=r"messages: conversation 2 is not one for the .* template: begin with a user"):
        encode_texts(conversations(ASKED, ASKED[1:]), tokenizer, None)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_corpora_of_conversations_are_read_from_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"chats{suffix}"
    rows = [{"messages": [{"role": "user", "content": f"text {number}"}]} for number in range(20)]
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert read_table(str(path)).rows[3]["messages"] == rows[3]["messages"]
    suite = TextGenerationSuite(tmp_path, TextGenerationSettings(form="causal", corpora={"chats": str(path)}))
    suite.prepare(["chats"])
    train = suite.examples("chats", "train")
    assert {type(example) for example in train} == {Conversation}
    assert json.loads(train[0].text)[0]["content"].startswith("text ")

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from regmean_lab.suites.base import DataError
from regmean_lab.suites.conll import LABELS, TokenExample, continues_entity, read_columns, read_json_lines

SENTENCE = TokenExample(("EU", "rejects", "German", "call"), ("B-ORG", "O", "O", "O"))
ANOTHER = TokenExample(("Peter", "Blackburn"), ("B-PER", "I-PER"))
COLUMNS = b"EU B-ORG x\nrejects O x\nGerman O x\ncall O x\n\nPeter B-PER x\nBlackburn I-PER x\n\n"


def write(tmp_path: Path, content: bytes | str, name: str = "train.conll") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def object_line(tokens: object, labels: object) -> str:
    return json.dumps({"tokens": tokens, "labels": labels, "id": 1}) + "\n"


def test_labels_in_the_order_of_their_ids() -> None:
    assert LABELS == ("O", "B-PER", "B-LOC", "B-ORG", "I-PER", "I-LOC", "I-ORG")


@pytest.mark.parametrize(
    "content",
    [
        COLUMNS,
        COLUMNS.rstrip(b"\n"),
        COLUMNS.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + COLUMNS,
        b"\n \n" + COLUMNS.replace(b"\n\n", b"\n\t\n\n"),
        COLUMNS.replace(b" x", b""),
        COLUMNS.replace(b" ", b"\t"),
        COLUMNS.replace(b" ", b"  ").replace(b"x", b"x "),
        b"-DOCSTART- O x\n\n" + COLUMNS.replace(b"\n\n", b"\n-DOCSTART- -X- -X- O\n"),
    ],
    ids=[
        "plain",
        "no last line end",
        "Windows line ends",
        "byte-order mark",
        "more blank lines",
        "no domain",
        "tabs",
        "wide spaces",
        "document starts",
    ],
)
def test_column_files(tmp_path: Path, content: bytes) -> None:
    assert read_columns(write(tmp_path, content)) == [SENTENCE, ANOTHER]


def test_only_spaces_and_tabs_separate_columns(tmp_path: Path) -> None:
    odd = ["10\u00a0000", "\u3000", "a\u2028b", "c\x85d", "#", '"']
    content = "".join(f"{word} O x\n" for word in odd)
    assert [example.tokens for example in read_columns(write(tmp_path, content))] == [tuple(odd)]


def test_other_types_of_entities_become_outside(tmp_path: Path) -> None:
    path = write(tmp_path, "a B-MISC x\nb I-MISC x\nc B-PER x\nd I-GPE x\ne I-PER x\n")
    assert read_columns(path)[0].tags == ("O", "O", "B-PER", "O", "I-PER")


def test_inside_without_begin_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, "a I-PER x\nb I-LOC x\nc O x\nd I-LOC x\n")
    assert read_columns(path)[0].tags == ("I-PER", "I-LOC", "O", "I-LOC")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("-LRB-", "("), ("-RRB-", ")"), ("-LSB-", "["), ("-RSB-", "]"), ("-LCB-", "{"), ("-RCB-", "}"), ("LRB", "LRB")],
)
def test_brackets_become_characters(tmp_path: Path, written: str, meant: str) -> None:
    assert read_columns(write(tmp_path, f"{written} O x\n"))[0].tokens == (meant,)
    path = write(tmp_path, object_line([written], ["O"]), "train.json")
    assert read_json_lines(path)[0].tokens == (meant,)


def test_malformed_lines_are_collected_with_their_numbers(tmp_path: Path) -> None:
    lines = ["a B-PER x", "b X-PER x", "", "c", "d O x y", "e PER x", "f B- x", "g b-PER x", "h B_PER x", "i S-PER"]
    path = write(tmp_path, "\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_columns(path)
    found = dict(line.split(": ", 1) for line in str(caught.value).splitlines())
    assert [name.rpartition(":")[2] for name in found] == ["2", "4", "5", "6", "7", "8", "9", "10"]
    assert all(name.startswith(f"{path}:") for name in found)
    assert found[f"{path}:2"] == "the tag must be O, or B- or I- and an entity type (B-PER), found 'X-PER'"
    assert found[f"{path}:4"] == "expected token, tag and domain, separated by spaces; found 1 column"
    assert found[f"{path}:5"].endswith("found 4 columns")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, b"a O x\n\xff O x\n")
    with pytest.raises(DataError, match=r"train\.conll:2: not UTF-8"):
        read_columns(path)


@pytest.mark.parametrize("content", ["", "\n \n\n", "-DOCSTART- -X- O O\n\n"], ids=["empty", "blank", "document start"])
def test_column_file_without_a_sentence(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_columns(path)
    assert str(caught.value) == f"{path}: holds no example."


def test_json_lines(tmp_path: Path) -> None:
    content = object_line(SENTENCE.tokens, SENTENCE.tags) + "\n" + object_line(ANOTHER.tokens, ANOTHER.tags)
    assert read_json_lines(write(tmp_path, content, "dev.json")) == [SENTENCE, ANOTHER]
    windows = b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode()
    assert read_json_lines(write(tmp_path, windows, "dev.json")) == [SENTENCE, ANOTHER]


def test_sentences_without_tokens_are_left_out(tmp_path: Path) -> None:
    content = object_line([], []) + object_line(["a", ""], ["O", "B-PER"])
    assert read_json_lines(write(tmp_path, content)) == [TokenExample(("a", ""), ("O", "B-PER"))]
    with pytest.raises(DataError, match="holds no example"):
        read_json_lines(write(tmp_path, object_line([], [])))
    with pytest.raises(DataError, match="holds no example"):
        read_json_lines(write(tmp_path, ""))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (object_line(["a", "b"], ["O"]), '2 "tokens", but 1 "labels"'),
        (object_line(["a"], ["X-PER"]), r"the tag must be O, or B- or I- and an entity type \(B-PER\), found 'X-PER'"),
        (object_line(["a"], [0]), r'"labels" must be a list of strings, found \[0\]'),
        (object_line("a", ["O"]), '"tokens" must be a list of strings, found "a"'),
        ('{"tokens": ["a"]}\n', 'the object has no "labels"'),
        ('["a"]\n', r'expected a JSON object, found \["a"\]'),
        ('{"tokens"\n', "not JSON: Expecting ':' delimiter"),
    ],
)
def test_malformed_json_lines(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, object_line(["a"], ["O"]) + line)
    with pytest.raises(DataError, match=rf"train\.conll:2: {message}"):
        read_json_lines(path)


def test_a_file_that_names_its_types_otherwise_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_columns(write(tmp_path, "a B-PER x\nb B-GPE x\n"))
        assert not caplog.messages
        read_columns(write(tmp_path, "a B-MISC x\nb B-GPE x\nc I-GPE x\n"))
    (message,) = caplog.messages
    assert "no entity of the types PER, LOC, ORG; its types MISC, GPE all become O" in message


@pytest.mark.parametrize(
    ("lines", "errors"),
    [
        (["a B-PER", "b B-PERSON"], {}),
        (["a B-LOC", "b I-PERSON"], {2: "PERSON, which is called PER"}),
        (["a O", "b B-geo-loc", "c B-per"], {3: "per, which is called PER", 2: "geo-loc, which is called LOC"}),
        (["a B-Organisation"], {1: "Organisation, which is called ORG"}),
        (["a B-PER", "b B-company"], {2: "company, which is called ORG"}),
    ],
)
def test_the_same_type_by_another_name(tmp_path: Path, lines: list[str], errors: dict[int, str]) -> None:
    as_objects = "".join(object_line([line.split()[0]], [line.split()[1]]) for line in lines)
    for read, content in ((read_columns, "\n".join(lines)), (read_json_lines, as_objects)):
        path = write(tmp_path, content)
        if not errors:
            assert len(read(path)) >= 1
            continue
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).splitlines() == [
            f"{path}:{number}: entities of the type {what} here; rename the type" for number, what in errors.items()
        ]


def test_comments_before_sentences_are_left_out(tmp_path: Path) -> None:
    content = "# id 7\tdomain=en\n# a comment\n#\n# O\na B-PER\n\n# more\nb O\n"
    assert [example.tokens for example in read_columns(write(tmp_path, content))] == [("#", "a"), ("b",)]
    path = write(tmp_path, "a O\n# not here\nb O\n")
    with pytest.raises(DataError, match=r"train\.conll:2: a comment inside a sentence"):
        read_columns(path)
    with pytest.raises(DataError, match="holds no example"):
        read_columns(write(tmp_path, "# nothing\n# else\n"))


def test_what_else_is_odd_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content, message in (
        ("a O\n" * 41, "the whole file is one sentence of 41 words"),
        ("a I-PER\nb I-PER\n\nc I-LOC\n", "2 of 2 entities begin with I-, as in the scheme IOB1"),
        ("a O\n\nb O\n", "no word is part of an entity"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read_columns(write(tmp_path, content))
        assert any(message in told for told in caplog.messages), content
    caplog.clear()
    read_columns(write(tmp_path, "a B-PER\nb I-PER\n\nc I-LOC\n"))
    assert not caplog.messages


def test_schemes_and_separators_that_are_meant_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found 'S-PER', of another scheme: in BIO, S- and U- are written as B-"):
        read_columns(write(tmp_path, "a S-PER\n"))
    with pytest.raises(DataError, match="found 1 column and no-break spaces, which separate nothing"):
        read_columns(write(tmp_path, "a\u00a0O\n"))


def test_a_tag_for_each_word() -> None:
    with pytest.raises(ValueError, match="2 tokens, but 1 tags"):
        TokenExample(("a", "b"), ("O",))


@settings(deadline=None)
@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=12))
def test_continuation_is_that_of_the_conll_script(tags: list[str]) -> None:
    inside = {index for _, start, end in get_entities(tags) for index in range(start + 1, end + 1)}
    assert {index for index in range(len(tags)) if continues_entity(tuple(tags), index)} == inside


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.text("aB.,-'()é€", min_size=1), st.sampled_from(LABELS)), min_size=1)))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, sentences: list) -> None:
    sentences.append([("last", "O")])
    folder = tmp_path_factory.mktemp("written")
    content = "\n".join("".join(f"{word} {tag} x\n" for word, tag in sentence) for sentence in sentences)
    examples = [TokenExample(*zip(*sentence, strict=True)) for sentence in sentences]
    assert read_columns(write(folder, content)) == examples
    lines = "".join(object_line(example.tokens, example.tags) for example in examples)
    assert read_json_lines(write(folder, lines)) == examples

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from regmean_lab.prepare.tagged import converted, file_content, read_columns_of, rename, to_bio
from regmean_lab.suites.base import DataError
from regmean_lab.suites.conll import TokenExample, read_columns

TYPES = {"per": "PER", "loc": "LOC", "org": "ORG"}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O I-PER I-PER O", "O B-PER I-PER O"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),  # adjacent entities of one type
        ("I-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),  # the type changes
        ("I-PER O I-PER", "B-PER O B-PER"),
        ("I-LOC I-MISC I-LOC", "B-LOC B-MISC B-LOC"),
        ("B-ORG I-ORG B-ORG O", "B-ORG I-ORG B-ORG O"),  # BIO stays
        ("B-PER I-ORG", "B-PER B-ORG"),
        ("O", "O"),
        ("", ""),
    ],
)
def test_bio(tags: str, expected: str) -> None:
    assert to_bio(tags.split()) == expected.split()


spans = st.lists(
    st.tuples(st.sampled_from(["O", "PER", "LOC", "ORG", "MISC"]), st.integers(min_value=1, max_value=3)), max_size=8
)


def write_out(entities: list[tuple[str, int]], scheme: str) -> list[str]:
    """Tags of adjacent stretches of words, written from the definition of the scheme."""
    tags = []
    before = "O"
    for entity, length in entities:
        if entity == "O":
            tags += ["O"] * length
        else:
            first = "B" if scheme == "BIO" or before == entity else "I"
            tags += [f"{first}-{entity}"] + [f"I-{entity}"] * (length - 1)
        before = entity
    return tags


@given(spans)
def test_iob1_and_bio_of_the_same_entities(entities: list[tuple[str, int]]) -> None:
    bio = write_out(entities, "BIO")
    assert to_bio(write_out(entities, "IOB1")) == bio
    assert to_bio(bio) == bio


@given(st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]), max_size=10))
def test_entities_stay_the_same(tags: list[str]) -> None:
    assert get_entities(to_bio(tags)) == get_entities(tags)


def test_types_are_renamed_whatever_their_case() -> None:
    assert rename(["B-per", "I-PER", "B-creative-work", "I-creative-work", "O"], TYPES) == [
        "B-PER",
        "I-PER",
        "O",
        "O",
        "O",
    ]


def test_entities_of_types_with_one_name_stay_apart() -> None:
    sentence = TokenExample(("a", "b", "c"), ("B-group", "I-corporation", "I-corporation"))
    (result,) = converted([sentence], {"group": "ORG", "corporation": "ORG"})
    assert result.tags == ("B-ORG", "B-ORG", "I-ORG")


def test_sentences_end_at_blank_lines_and_document_marks(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART- O\n\nA I-PER\n \nB I-PER\nC I-PER\n-DOCSTART- O\nD I-PER\n\n\n")
    sentences = converted(read_columns_of(path, 2, None), TYPES)
    assert [(" ".join(one.tokens), " ".join(one.tags)) for one in sentences] == [
        ("A", "B-PER"),
        ("B C", "B-PER I-PER"),
        ("D", "B-PER"),
    ]


def test_malformed_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes(b"good\tO\none column\n\ntoo\tmany\tO\n \tO\nbad\tPER\n\xff\tO\n")
    with pytest.raises(DataError) as caught:
        read_columns_of(path, 2, "\t")
    *lines, last = str(caught.value).splitlines()
    assert last.startswith(f"{path}:7: not UTF-8 (invalid start byte at byte 1 of the line); save the file as UTF-8")
    assert lines == [
        f"{path}:2: expected 2 columns (token first, tag last), found 1",
        f"{path}:4: expected 2 columns (token first, tag last), found 3",
        f"{path}:5: the token is empty",
        f"{path}:6: the tag must be O, or B- or I- and an entity type, found 'PER'",
    ]


def test_written_files_are_read_back_by_the_suites(tmp_path: Path) -> None:
    sentences = [
        TokenExample(("rge Osb", "\N{NO-BREAK SPACE}x", "♥"), ("B-PER", "I-PER", "O")),
        TokenExample(("a",), ("B-LOC",)),
    ]
    path = tmp_path / "a.conll"
    path.write_bytes(file_content(sentences, "btc_g"))
    assert path.read_text() == "rge_Osb B-PER btc_g\n\N{NO-BREAK SPACE}x I-PER btc_g\n♥ O btc_g\n\na B-LOC btc_g\n\n"
    assert [(one.tokens, one.tags) for one in read_columns(path)] == [
        (("rge_Osb", "\N{NO-BREAK SPACE}x", "♥"), ("B-PER", "I-PER", "O")),
        (("a",), ("B-LOC",)),
    ]

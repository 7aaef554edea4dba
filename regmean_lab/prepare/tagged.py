"""Sentences with entity tags: reading upstream columns, rewriting tags, writing the layout that the suites read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from regmean_lab.suites.conll import BLANKS, DOCUMENT_START, OUTSIDE, TAG, TokenExample
from regmean_lab.suites.reading import parse_lines

END = ("", "")
"""Stands for the end of a sentence among rows of token and tag."""


def read_columns_of(path: Path, columns: int, separator: str | None) -> list[TokenExample]:
    """Read a file with one word a line, token first and tag last, and blank lines between sentences.

    Lines whose token is ``-DOCSTART-`` are left out and end a sentence. Tags stay as they are.

    Args:
        path: the file.
        columns: how many columns a line must have.
        separator: what stands between columns; None for any number of spaces and tabs.

    Raises:
        DataError: naming file and line of malformed lines, or if the file holds no word.
    """

    def parse(line: str) -> tuple[str, str]:
        # Not str.split: it would also cut at a no-break space, which can be part of a token.
        fields = BLANKS.split(line.strip(" \t")) if separator is None else line.split(separator)
        if fields[0] == DOCUMENT_START:
            return END
        if len(fields) != columns:
            raise ValueError(f"expected {columns} columns (token first, tag last), found {len(fields)}")
        token, tag = fields[0].strip(" "), fields[-1].strip(" ")
        if not token:
            raise ValueError("the token is empty")
        if tag != OUTSIDE and not TAG.fullmatch(tag):
            raise ValueError(f"the tag must be O, or B- or I- and an entity type, found {tag!r}")
        return token, tag

    return sentences_of(parse_lines(path, parse, blank=END))


def sentences_of(rows: Iterable[tuple[str, str]]) -> list[TokenExample]:
    """Group rows of token and tag into sentences, at every row that is `END`; empty ones are left out."""
    sentences: list[list[tuple[str, str]]] = [[]]
    for row in rows:
        if row is not END:
            sentences[-1].append(row)
        elif sentences[-1]:
            sentences.append([])
    return [
        TokenExample(tuple(token for token, _ in rows), tuple(tag for _, tag in rows)) for rows in sentences if rows
    ]


def to_bio(tags: Sequence[str]) -> list[str]:
    """Rewrite the tags of one sentence so that every entity begins with ``B-`` (IOB1 or IOB2 to BIO).

    In IOB1 an entity begins with ``B-`` only where it follows another of the same type: an ``I-`` that does not
    continue an entity of its type begins one.
    """
    result = []
    before = ""
    for tag in tags:
        match = TAG.fullmatch(tag)
        entity = match["entity"] if match else ""
        result.append(f"B-{entity}" if entity and entity != before else tag)
        before = entity
    return result


def rename(tags: Iterable[str], types: Mapping[str, str]) -> list[str]:
    """Rename entity types, found in small letters in ``types``; words of other types become ``O``."""
    result = []
    for tag in tags:
        match = TAG.fullmatch(tag)
        entity = types.get(match["entity"].lower()) if match else None
        result.append(f"{match['prefix']}-{entity}" if match and entity else OUTSIDE)
    return result


def converted(sentences: Iterable[TokenExample], types: Mapping[str, str]) -> list[TokenExample]:
    """The sentences with tags in BIO and renamed types.

    BIO comes first: two adjacent entities whose types get the same name stay two.
    """
    return [TokenExample(sentence.tokens, tuple(rename(to_bio(sentence.tags), types))) for sentence in sentences]


def text_of(sentence: TokenExample) -> str:
    """The words, separated by blanks: what makes two sentences equal."""
    return " ".join(sentence.tokens)


def file_content(sentences: Iterable[TokenExample], domain: str) -> bytes:
    """A file of lines ``token tag domain`` with a blank line after each sentence; blanks in a token become ``_``."""
    lines = []
    for sentence in sentences:
        for token, tag in zip(sentence.tokens, sentence.tags, strict=True):
            lines.append(f"{BLANKS.sub('_', token)} {tag} {domain}\n")
        lines.append("\n")
    return "".join(lines).encode()

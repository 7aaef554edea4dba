"""Sentences whose words have entity tags, and readers of the files that hold them."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.suites.base import DataError
from regmean_lab.suites.reading import gathered, json_object, parse_numbered_lines

_logger = logging.getLogger(__name__)

ENTITIES = ("PER", "LOC", "ORG")
OUTSIDE = "O"
LABELS = (OUTSIDE, *(f"B-{entity}" for entity in ENTITIES), *(f"I-{entity}" for entity in ENTITIES))
"""All tags in the order of their ids."""

BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
"""What treebanks write for brackets."""

DOCUMENT_START = "-DOCSTART-"

OTHER_NAMES = {
    "PER": ("PER", "PERS", "PERSON"),
    "LOC": ("LOC", "LOCATION", "GEO-LOC", "GEOLOC"),
    "ORG": ("ORG", "ORGANIZATION", "ORGANISATION", "COMPANY", "CORPORATION"),
}
"""What other corpora call the entity types, in capital letters."""

ONE_SENTENCE = 40
"""Words of a file's only sentence from which on blank lines are probably missing."""

TAG = re.compile(r"(?P<prefix>[BI])-(?P<entity>.+)")
BLANKS = re.compile(r"[ \t]+")
_OTHER_SCHEME = re.compile(r"[SEUL]-.+")
_COMMENT = ("#", "")
_SENTENCE_END = ("", "")


@dataclass(frozen=True)
class TokenExample:
    """One sentence, as words with a tag each.

    Attributes:
        tokens: the words; an empty one is possible.
        tags: one of ``LABELS`` for each word: ``B-`` begins an entity, ``I-`` continues it, ``O`` is outside of all. An
            ``I-`` that continues nothing is kept as the file has it; it counts as the first word of an entity.
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"{len(self.tokens)} tokens, but {len(self.tags)} tags")


def continues_entity(tags: tuple[str, ...], index: int) -> bool:
    """Whether the word at ``index`` belongs to the same entity as the word before it."""
    return (
        index > 0
        and tags[index].startswith("I-")
        and tags[index - 1] != OUTSIDE
        and tags[index - 1][2:] == tags[index][2:]
    )


def read_columns(path: Path) -> list[TokenExample]:
    """Read a file with one word per line: token, tag and domain separated by spaces; blank lines between sentences.

    The third column is not looked at and may be absent; tabs separate as well as spaces. Lines that begin with
    ``-DOCSTART-`` separate documents and are left out, and so are comments before a sentence: lines that begin with a
    number sign and a space, and have no tag. Tags are as in :func:`read_json_lines`.

    Raises:
        DataError: naming file and line of up to ten kinds of malformed lines, or if the file holds no sentence.
    """
    others: dict[str, int] = {}

    def parse(line: str) -> tuple[str, str]:
        columns = BLANKS.split(line.strip(" \t"))
        if columns[0] == DOCUMENT_START:
            return _SENTENCE_END
        if columns[0] == "#" and (len(columns) == 1 or not _is_tag(columns[1])):
            return _COMMENT
        if not 2 <= len(columns) <= 3:
            found = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
            hint = " and no-break spaces, which separate nothing" if len(columns) == 1 and "\u00a0" in line else ""
            raise ValueError(f"expected token, tag and domain, separated by spaces; found {found}{hint}")
        return _plain(columns[0]), _checked(columns[1])

    sentences: list[list[tuple[str, str]]] = [[]]
    comments = []
    for number, row in parse_numbered_lines(path, parse, blank=_SENTENCE_END):
        if row is _SENTENCE_END:
            if sentences[-1]:
                sentences.append([])
        elif row is not _COMMENT:
            sentences[-1].append((row[0], _known(row[1], number, others)))
        elif sentences[-1]:
            comments.append((number, "a comment inside a sentence; delete it, or separate it by a blank line"))
    if comments:
        raise DataError(gathered(lambda number: f"{path}:{number}", comments))
    examples = [
        TokenExample(tuple(token for token, _ in rows), tuple(tag for _, tag in rows)) for rows in sentences if rows
    ]
    if not examples:
        raise DataError(f"{path}: holds no example.")
    if len(examples) == 1 and len(examples[0].tokens) > ONE_SENTENCE:
        _logger.warning(
            "%s: the whole file is one sentence of %d words; blank lines separate sentences.",
            path,
            len(examples[0].tokens),
        )
    _check_tags(path, examples, others)
    return examples


def read_json_lines(path: Path) -> list[TokenExample]:
    """Read a file of JSON objects, one per line, with ``tokens`` and ``labels``: lists of strings of the same length.

    Tags are ``O``, ``B-`` and an entity type, or ``I-`` and an entity type; types other than PER, LOC and ORG become
    ``O``, with a warning where a file knows no other. A type that is one of these three under another name (``PERSON``)
    is an error where the file does not use this one's. Bracket tokens (``-LRB-``) become the characters they stand for.
    Sentences without any token are left out.

    Raises:
        DataError: naming file and line of up to ten malformed lines, or if the file holds no sentence.
    """
    others: dict[str, int] = {}
    examples = [
        TokenExample(tokens, tuple(_known(tag, number, others) for tag in tags))
        for number, (tokens, tags) in parse_numbered_lines(path, _parse_object)
        if tokens
    ]
    if not examples:
        raise DataError(f"{path}: holds no example.")
    _check_tags(path, examples, others)
    return examples


def _parse_object(line: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    row = json_object(line)
    tokens, tags = _strings(row, "tokens"), _strings(row, "labels")
    if len(tokens) != len(tags):
        raise ValueError(f'{len(tokens)} "tokens", but {len(tags)} "labels"')
    return tuple(_plain(token) for token in tokens), tuple(_checked(tag) for tag in tags)


def _strings(row: dict[str, Any], key: str) -> list[str]:
    if key not in row:
        raise ValueError(f'the object has no "{key}"')
    values = row[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f'"{key}" must be a list of strings, found {json.dumps(values)[:60]}')
    return values


def _plain(token: str) -> str:
    return BRACKETS.get(token, token)


def _checked(tag: str) -> str:
    if not _is_tag(tag):
        hint = ""
        if _OTHER_SCHEME.fullmatch(tag):
            hint = ", of another scheme: in BIO, S- and U- are written as B-, and E- and L- as I-"
        raise ValueError(f"the tag must be O, or B- or I- and an entity type (B-PER), found {tag!r}{hint}")
    return tag


def _known(tag: str, number: int, others: dict[str, int]) -> str:
    """The tag, or ``O`` for one of another entity type, of which the first line is noted in ``others``."""
    if tag in LABELS:
        return tag
    others.setdefault(tag[2:], number)
    return OUTSIDE


def _is_tag(text: str) -> bool:
    return text == OUTSIDE or TAG.fullmatch(text) is not None


def _check_tags(path: Path, examples: list[TokenExample], others: dict[str, int]) -> None:
    """Look at all tags of a file together.

    Raises:
        DataError: where one of ``ENTITIES`` never occurs and a type that is the same by another name does.
    """
    tags = Counter(tag for example in examples for tag in example.tags)
    found = []
    for entity in ENTITIES:
        if tags[f"B-{entity}"] + tags[f"I-{entity}"] == 0:
            names = [name for name in others if name.upper() in OTHER_NAMES[entity]]
            found += [
                f"{path}:{others[name]}: entities of the type {name}, which is called {entity} here; rename the type"
                for name in names
            ]
    if found:
        raise DataError("\n".join(found))
    if tags[OUTSIDE] == tags.total() and others:
        _logger.warning(
            "%s: no entity of the types %s; its types %s all become O. Rename them in the file if they mean the same.",
            path,
            ", ".join(ENTITIES),
            ", ".join(others),
        )
    elif tags[OUTSIDE] == tags.total():
        _logger.warning("%s: no word is part of an entity.", path)
    starts = [
        example.tags[index]
        for example in examples
        for index in range(len(example.tags))
        if example.tags[index] != OUTSIDE and not continues_entity(example.tags, index)
    ]
    inside = sum(tag.startswith("I-") for tag in starts)
    if 2 * inside > len(starts):
        _logger.warning(
            "%s: %d of %d entities begin with I-, as in the scheme IOB1. They are read as they are; models of "
            "corpora whose entities begin with B- disagree with a model of this one.",
            path,
            inside,
            len(starts),
        )

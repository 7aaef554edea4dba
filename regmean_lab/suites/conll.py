"""Sentences whose words have entity tags, and readers of the files that hold them."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regmean_lab.suites.base import DataError
from regmean_lab.suites.reading import json_object, parse_lines

_logger = logging.getLogger(__name__)

ENTITIES = ("PER", "LOC", "ORG")
OUTSIDE = "O"
LABELS = (OUTSIDE, *(f"B-{entity}" for entity in ENTITIES), *(f"I-{entity}" for entity in ENTITIES))
"""All tags in the order of their ids."""

BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
"""What treebanks write for brackets."""

DOCUMENT_START = "-DOCSTART-"

_TAG = re.compile(r"[BI]-(?P<entity>.+)")
_BLANKS = re.compile(r"[ \t]+")
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
    """Read a file with one word a line: token, tag and domain separated by spaces; blank lines between sentences.

    The third column is not looked at and may be absent; tabs separate as well as spaces. Lines that begin with
    ``-DOCSTART-`` separate documents and are left out. Tags are as in :func:`read_json_lines`.

    Raises:
        DataError: naming file and line of up to ten malformed lines, or if the file holds no sentence.
    """
    others: dict[str, None] = {}

    def parse(line: str) -> tuple[str, str]:
        columns = _BLANKS.split(line.strip(" \t"))
        if columns[0] == DOCUMENT_START:
            return _SENTENCE_END
        if not 2 <= len(columns) <= 3:
            found = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
            raise ValueError(f"expected token, tag and domain, separated by spaces; found {found}")
        return _plain(columns[0]), _known(columns[1], others)

    sentences: list[list[tuple[str, str]]] = [[]]
    for row in parse_lines(path, parse, blank=_SENTENCE_END):
        if row is not _SENTENCE_END:
            sentences[-1].append(row)
        elif sentences[-1]:
            sentences.append([])
    examples = [
        TokenExample(tuple(token for token, _ in rows), tuple(tag for _, tag in rows)) for rows in sentences if rows
    ]
    _warn_of_other_entities(path, examples, others)
    return examples


def read_json_lines(path: Path) -> list[TokenExample]:
    """Read a file of JSON objects, one a line, with ``tokens`` and ``labels``: lists of strings of the same length.

    Tags are ``O``, ``B-`` and an entity type, or ``I-`` and an entity type; types other than PER, LOC and ORG become
    ``O``, with a warning where a file knows no other. Bracket tokens (``-LRB-``) become the characters they stand for.
    Sentences without any token are left out.

    Raises:
        DataError: naming file and line of up to ten malformed lines, or if the file holds no sentence.
    """
    others: dict[str, None] = {}
    examples = [example for example in parse_lines(path, lambda line: _parse_object(line, others)) if example.tokens]
    if not examples:
        raise DataError(f"{path}: holds no example.")
    _warn_of_other_entities(path, examples, others)
    return examples


def _parse_object(line: str, others: dict[str, None]) -> TokenExample:
    row = json_object(line)
    tokens, tags = _strings(row, "tokens"), _strings(row, "labels")
    if len(tokens) != len(tags):
        raise ValueError(f'{len(tokens)} "tokens", but {len(tags)} "labels"')
    return TokenExample(tuple(_plain(token) for token in tokens), tuple(_known(tag, others) for tag in tags))


def _strings(row: dict[str, Any], key: str) -> list[str]:
    if key not in row:
        raise ValueError(f'the object has no "{key}"')
    values = row[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f'"{key}" must be a list of strings, found {json.dumps(values)[:60]}')
    return values


def _plain(token: str) -> str:
    return BRACKETS.get(token, token)


def _known(tag: str, others: dict[str, None]) -> str:
    """The tag, or ``O`` for one of another entity type, which is noted in ``others``."""
    if tag in LABELS:
        return tag
    match = _TAG.fullmatch(tag)
    if match is None:
        raise ValueError(f"the tag must be O, or B- or I- and an entity type (B-PER), found {tag!r}")
    others[match["entity"]] = None
    return OUTSIDE


def _warn_of_other_entities(path: Path, examples: list[TokenExample], others: dict[str, None]) -> None:
    """Say so where all entities are lost because their types have other names."""
    if others and all(tag == OUTSIDE for example in examples for tag in example.tags):
        _logger.warning(
            "%s: no entity of the types %s; its types %s all become O. Rename them in the file if they mean the same.",
            path,
            ", ".join(ENTITIES),
            ", ".join(others),
        )

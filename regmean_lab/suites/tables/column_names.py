"""Names of columns: those that are obvious, and what of a name may be published."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from regmean_lab.suites.conversations import MESSAGES

PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
MORE_PAIRS = (
    ("query", "document"),
    ("query", "passage"),
    ("question", "context"),
)
"""Pairs of models for which a second text is no more of an exception than one alone: rerankers, embeddings, answers."""
CHOICES = (("context", "choices"), ("question", "choices"), ("prompt", "choices"))
"""What choices of an answer belong to, and the choices, a list."""
TEXTS = ("text", "sentence", "content", "review", "document", "tweet", "comment", "premise", "question")
WORDS = ("tokens", "words", "text", "sentence")
SOURCES = ("text", "source", "input", "document", "article", "dialogue", "question")
TARGETS = ("target", "summary", "highlights", "answer", "output", "labels", "label")
CONVERSATIONS = (MESSAGES,)
"""Of decoders, after texts: lists of messages, for the tokenizer's chat template."""
LABELS = ("label", "labels", "ner_tags", "tags", "score", "class", "category", "sentiment", "emotion", "intent")

_OF_PAIRS = tuple(name for pair in (*PAIRS, *MORE_PAIRS, *CHOICES) for name in pair)
OBVIOUS = frozenset((*_OF_PAIRS, *TEXTS, *WORDS, *SOURCES, *TARGETS, *CONVERSATIONS, *LABELS))

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
_NUMBER = re.compile(r"[+-]?[\d.,]+%?")
LONGEST_NAME, MOST_WORDS = 64, 5


def numbered(position: int) -> str:
    """The name of a column by its position, from 0."""
    return f"column_{position + 1}"


def find_column(columns: Sequence[str], usual: str) -> str | None:
    """The column of a usual name; small and capital letters are told apart only where both are there."""
    if usual in columns:
        return usual
    return next((name for name in columns if name.strip().casefold() == usual), None)


def is_obvious(name: str) -> bool:
    """Whether a name is one of those that are obvious, in small or capital letters."""
    return name.strip().casefold() in OBVIOUS


def public_name(name: str, columns: Sequence[str], trusted: bool) -> str:
    """What is published of a column's name: the name, or only its position where it could be a text of the data.

    Args:
        name: the name.
        columns: all columns of the table.
        trusted: whether the name was typed by the user, or is a key in a format in which texts are no keys.
    """
    if is_obvious(name) or (trusted and _IDENTIFIER.fullmatch(name)):
        return name
    return numbered(list(columns).index(name))


def header_doubts(fields: Sequence[str], below: Sequence[Sequence[str]], typed: Collection[str]) -> str | None:
    """Why a table's first line may be no line of column names; None if it surely is one.

    Args:
        fields: of the first line, without blanks around them.
        below: the other lines.
        typed: names of columns that the user gave.
    """
    filled = [field for field in fields if field]
    if not filled:
        return "all its fields are empty"
    if numbers := [field for field in filled if _NUMBER.fullmatch(field)]:
        return f"it holds the number {numbers[0]}"
    if typed and set(typed) <= set(filled):
        return None
    if not any(map(is_obvious, filled)):
        return "it holds none of the usual names"
    if texts := [field for field in filled if not _could_be_name(field)]:
        return f"{texts[0]!r:.60} reads like a text"
    for position, field in enumerate(fields):
        if is_obvious(field) and any(row[position].strip() == field for row in below if len(row) > position):
            return f"{field!r} occurs again as a value of its column"
    return None


def _could_be_name(field: str) -> bool:
    return len(field) <= LONGEST_NAME and len(field.split()) <= MOST_WORDS and field[-1] not in ".!?…,;"

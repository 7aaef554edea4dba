"""A tokenizer's vocabulary, as far as counts of tokens depend on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

CONTINUATION = "##"
MARKS = (CONTINUATION, "▁", "Ġ")
"""How tokenizers mark the inside of words (WordPiece) or their beginning (SentencePiece, byte-level BPE)."""

MARKED = 0.01
"""Share of tokens with a mark from which on it is taken to be the tokenizer's."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a tokenizer can write.

    Attributes:
        tokens: the text of each token as the tokenizer writes it, by its id; None where an id has none.
        special: ids of special tokens, the unknown one among them: they are not counted.
        separators: those that stand before, between and after texts.
        algorithm: the tokenizer's kind, for messages, such as ``WordPiece``.
        pair_frame: ids of the tokens that the tokenizer puts around two texts, as often as each is there; empty where
            nothing stands between them.
    """

    tokens: tuple[str | None, ...]
    special: frozenset[int]
    separators: frozenset[int]
    algorithm: str = "unknown"
    pair_frame: tuple[int, ...] = ()

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token that is not special."""
        return {token: id_ for id_, token in enumerate(self.tokens) if token is not None and id_ not in self.special}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all tokens in the order of their ids."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()

    @cached_property
    def mark(self) -> str:
        """Of :data:`MARKS` the one that tokens have; empty without any."""
        share = {mark: sum(token.startswith(mark) for token in self.ids) for mark in MARKS}
        best = max(share, key=lambda mark: share[mark])
        return best if share[best] > MARKED * len(self.ids) else ""

    @cached_property
    def inner(self) -> frozenset[int]:
        """Ids of the tokens that say that they continue a word, as WordPiece's do.

        Marks of a word's beginning do not tell: many tokenizers leave them out at the first word of a text.
        """
        if self.mark != CONTINUATION:
            return frozenset()
        return frozenset(id_ for token, id_ in self.ids.items() if token.startswith(CONTINUATION))

    def describe(self) -> dict[str, Any]:
        """What a file of counts tells of it."""
        return {"digest": self.digest, "size": len(self.ids), "mark": self.mark, "algorithm": self.algorithm}


def named(description: dict[str, Any]) -> str:
    """A vocabulary as messages call it, from :meth:`Vocabulary.describe`."""
    return f"{description['algorithm']}, {description['size']} tokens, digest {str(description['digest'])[:8]}"

"""What the paper's released code calls corpora: ``model0``, ``model1``, …, ``ontonotes@GENRE`` and ``conll``.

Its configurations number corpora from 0, more of them than are merged, and ``--filter_model model0 model1`` chooses
among them. A suite lists them in :attr:`~regmean_lab.suites.base.Suite.released_members`, which is not the order that
numbers members for head initialisation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

GENRE_OF = "ontonotes@"
"""What stands there before the name of a genre of OntoNotes."""

RENAMED: Mapping[str, str] = {"conll": "conll2003"}
"""Corpora that have another name there."""

_NUMBERED = re.compile(r"model(\d+)")


def released_corpus(name: str, numbered: Sequence[str], known: Sequence[str]) -> str | None:
    """The corpus that a name of the released code stands for; None for every other name.

    Args:
        name: the name.
        numbered: the corpora by their numbers there, by the names that they have here. Not all of them need be known.
        known: all corpora of the suite; a name that is one of them stands for nothing else.
    """
    if name in known:
        return None
    if (match := _NUMBERED.fullmatch(name)) is not None:
        number = int(match[1])
        return numbered[number] if number < len(numbered) else None
    corpus = RENAMED.get(name, name.removeprefix(GENRE_OF))
    return corpus if corpus != name and corpus in known else None

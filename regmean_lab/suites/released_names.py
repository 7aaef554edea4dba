"""What the paper's released code calls the members of a suite: ``model0``, ``model1``, … and ``ontonotes@GENRE``.

Its configurations number members from 0, in the order of :attr:`~regmean_lab.suites.base.Suite.reference_order`, and
``--filter_model model0 model1`` chooses among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

GENRE_OF = "ontonotes@"
"""What stands there before the name of a genre of OntoNotes."""

_NUMBERED = re.compile(r"model(\d+)")


def released_corpus(name: str, numbered: Sequence[str], known: Sequence[str]) -> str | None:
    """The corpus of a suite that a name of the released code stands for; None for every other name.

    Args:
        name: the name.
        numbered: the suite's members in the order that numbers them.
        known: all corpora of the suite; a name that is one of them stands for nothing else.
    """
    if name in known:
        return None
    if (match := _NUMBERED.fullmatch(name)) is not None:
        number = int(match[1])
        return numbered[number] if number < len(numbered) else None
    genre = name.removeprefix(GENRE_OF)
    return genre if genre != name and genre in known else None

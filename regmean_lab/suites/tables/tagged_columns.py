"""Files with one word and its tag per line (CoNLL-style), as a table of sentences."""

from __future__ import annotations

import re
from pathlib import Path

from regmean_lab.suites.base import DataError
from regmean_lab.suites.conll import DOCUMENT_START
from regmean_lab.suites.reading import gathered, parse_numbered_lines
from regmean_lab.suites.tables.table import Table

TAGGED = (".conll", ".bio", ".iob", ".iob2", ".txt")
"""Endings of such files."""

WORDS, TAGS = "tokens", "tags"
"""Columns of the table that is made of a file."""

_BLANKS = re.compile(r"[ \t]+")
_SENTENCE_END: tuple[str, ...] = ()


def read_tagged(name: str) -> Table:
    """Read a file with a word in the first column, its tag in the last, and a blank line after each sentence.

    Columns are separated by tabs or spaces and equal in number; what lies between the first and the last (parts of
    speech, chunks) is not looked at. Lines that begin with ``-DOCSTART-`` and comments before a sentence (``# …``, with
    another number of columns) are left out.

    Returns:
        One row per sentence, with the columns ``tokens`` and ``tags``; its line is that of its first word.

    Raises:
        DataError: naming file and line, where lines have other numbers of columns; if there is no sentence.
    """
    path = Path(name).expanduser()

    def parse(line: str) -> tuple[str, ...]:
        columns = tuple(_BLANKS.split(line.strip(" \t")))
        return _SENTENCE_END if columns[0] == DOCUMENT_START else columns

    lines = parse_numbered_lines(path, parse, blank=_SENTENCE_END)
    counts = [len(columns) for _, columns in lines if columns and columns[0] != "#"]
    width = max(set(counts), key=counts.count) if counts else 0
    sentences: list[list[tuple[int, tuple[str, ...]]]] = [[]]
    wrong = []
    for number, columns in lines:
        if not columns:
            if sentences[-1]:
                sentences.append([])
        elif columns[0] == "#" and len(columns) != width and not sentences[-1]:
            continue
        elif len(columns) != width or width < 2:
            expected = "a word and its tag" if width < 2 else f"{width} columns, as in most lines"
            found = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
            hint = " and no-break spaces, which separate nothing" if "\u00a0" in "".join(columns) else ""
            wrong.append((number, f"expected {expected}, separated by tabs or spaces; found {found}{hint}"))
        else:
            sentences[-1].append((number, columns))
    if wrong:
        raise DataError(gathered(lambda number: f"{path}:{number}", wrong))
    filled = [words for words in sentences if words]
    if not filled:
        raise DataError(f"{path}: holds no sentence")
    rows = [
        {WORDS: [columns[0] for _, columns in words], TAGS: [columns[-1] for _, columns in words]} for words in filled
    ]
    return Table(name, (WORDS, TAGS), rows, [words[0][0] for words in filled])

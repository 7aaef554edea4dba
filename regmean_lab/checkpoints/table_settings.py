"""Settings of commands that read tables: the columns of texts, and whether there is a first line of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regmean_lab.suites.tables.table import DELIMITED, is_file_name

HEADERS = {"auto": None, True: True, False: False}
"""What the setting ``header`` may be: whether there is one, or None where the first line tells."""


def texts_of(text: Any) -> list[str] | None:
    """The columns of texts as a list; None without any, an empty list for what names no columns."""
    if text is None:
        return None
    listed = [text] if isinstance(text, str) else text
    sound = isinstance(listed, list) and 1 <= len(listed) <= 2 and all(isinstance(name, str) for name in listed)
    return listed if sound else []


def table_problems(text: Any, header: Any, data: Sequence[str]) -> list[str]:
    """What is wrong with the settings ``text`` and ``header``, with which some files are read."""
    found = []
    if text is not None and not texts_of(text):
        found.append(f"text: expected the name of a column, or of two, got {text!r}")
    if not isinstance(header, str | bool) or header not in HEADERS:
        return [*found, f"header: expected auto, true or false, got {header!r}"]
    for name in data:
        suffix = Path(name).suffix.lower() if is_file_name(name) else ""
        if not (header == "auto" or suffix in DELIMITED or (header is False and suffix == ".txt")):
            found.append(f"header: is for files named {' and '.join(DELIMITED)}, not for {name}")
    return found

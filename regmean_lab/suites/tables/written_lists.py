"""Lists that were written as text, as pandas writes them into a CSV."""

from __future__ import annotations

import ast
import re
from typing import Any

from regmean_lab.suites.reading import parse_json

_STRING = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_NUMBER = r"[+-]?\d+(?:\.\d*)?"
_PART = rf"(?:{_STRING}|{_NUMBER})"
_LIST = re.compile(rf"[\[(]\s*(?:{_PART}(?:\s*,\s*{_PART})*\s*,?\s*)?[\])]")
_LONGEST_NUMBER = re.compile(r"\d{300}")


def written_list(text: str) -> list[Any] | None:
    """The list that a text holds: in JSON, or as Python writes strings and numbers; None of a text that is no list.

    A text in square brackets is taken for a list, and one in parentheses, or behind ``array(``, if a quotation mark
    follows. Strings that no comma separates, as numpy writes them, are refused: Python would join them to one.

    Raises:
        ValueError: for a list that cannot be read.
    """
    stripped = text.strip()
    bracketed = stripped.startswith("[") and stripped.endswith("]")
    if not bracketed and not re.match(r"(?:array\(\s*\[|\(\s*['\"])", stripped):
        return None
    try:
        found = parse_json(stripped)
    except ValueError as error:
        if "not JSON" not in str(error):
            raise
    else:
        if isinstance(found, list):
            return found
    if _LIST.fullmatch(stripped) and not _LONGEST_NUMBER.search(stripped):
        try:
            return list(ast.literal_eval(stripped))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            pass
    raise ValueError(
        f"a list that is written as text cannot be read: {stripped!r:.60}; expected strings or numbers in brackets, "
        "with commas between them (numpy writes none), or JSON"
    )

"""Writing files atomically, and naming them."""

from __future__ import annotations

import re


class FileNames:
    """Stems of files, each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def stem(self, *parts: str) -> str:
        """A stem that says what the parts say, in letters, digits, dots and dashes."""
        wanted = "-".join(text for part in parts if (text := re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-._")))
        wanted = wanted[:120] or "report"
        stem, number = wanted, 1
        while stem.lower() in self._given:
            number += 1
            stem = f"{wanted}-{number}"
        self._given.add(stem.lower())
        return stem

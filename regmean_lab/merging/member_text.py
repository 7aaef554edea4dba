"""Whose text a merge method reads, where it reads some."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from regmean_lab.utils.names import nearest

OWN = "own"
PSEUDO = "pseudo"
TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass
class ReadsText:
    """What a merge method has besides, if it reads text of the members.

    To be named before `MergeMethod` or what derives from it among the bases of a method.

    Attributes:
        text: whose text is read: ``own`` (training examples of each member; their labels are not read), ``pseudo``
            (sentences drawn from the counts of tokens that each member's owner published: nobody's text), or a file of
            texts (txt, csv, tsv, jsonl, json, parquet), which every member reads.
        text_seed: which pseudo-text is drawn, and which texts of a file; which training examples, ``statistics.seed``
            says.
    """

    text: str = "own"
    text_seed: int = 0

    @property
    def needs_text(self) -> bool:
        """The text of every member."""
        return True

    @property
    def text_file(self) -> Path | None:
        """The file of texts that every member reads, if one is."""
        return None if self.text in (OWN, PSEUDO) else Path(self.text).expanduser()

    @property
    def text_statistics(self) -> tuple[str, ...]:
        """The kinds of statistics that the text is drawn from."""
        return ("tokens",) if self.text == PSEUDO else ()

    def reading_problems(self) -> list[str]:
        """Why the text is of no use to models that only read it, as classifiers do; empty where it is of some."""
        return []

    def text_problems(self) -> list[str]:
        """What is wrong with the settings of the text: one message each, beginning with the setting's name."""
        found = []
        examples = getattr(self, "examples", None)
        if examples is not None and examples < 1:
            found.append(f"examples: expected at least 1 or null, got {examples}")
        if not self.text or (self.text not in (OWN, PSEUDO) and Path(self.text).suffix not in TEXT_SUFFIXES):
            near = nearest(self.text, (OWN, PSEUDO))
            found.append(
                f"text: expected {OWN}, {PSEUDO}, or a file ({', '.join(TEXT_SUFFIXES)}), got {self.text!r}"
                f"{f'; did you mean {near[0]}?' if near else ''}"
            )
        return found

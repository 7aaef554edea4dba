"""Adapts examples that belong to no suite to the suite interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regmean_lab.suites.base import Split, Suite, Task
from regmean_lab.suites.tables.columns import examples_fingerprint

CORPUS = "data"
"""The name of the only corpus."""


class OneCorpus(Suite):
    """One corpus of training examples, which are given.

    Args:
        examples: the examples, as the encoding of the task's kind takes them.
        task: what a model of it predicts.
    """

    name = CORPUS
    reference_order = (CORPUS,)

    def __init__(self, examples: Sequence[Any], task: Task) -> None:
        super().__init__(Path(), None)
        self._examples = list(examples)
        self._task = task

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """None."""
        return ()

    def task(self, corpus: str) -> Task:
        """The one that was given."""
        return self._task

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """Nothing."""
        return []

    def examples(self, corpus: str, split: Split) -> list[Any]:
        """The examples that were given, all of them for training."""
        return self._examples if split == "train" else []

    def out_of_domain_examples(self, corpus: str) -> list[Any]:
        """None."""
        return []

    def fingerprint(self, corpus: str) -> str:
        """Hash of the examples' content."""
        return examples_fingerprint(self._examples)

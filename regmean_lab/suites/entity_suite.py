"""What the suites of named entity recognition share: settings, task, and how their files become examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from regmean_lab.suites.base import Task
from regmean_lab.suites.conll import LABELS, TokenExample, read_columns, read_json_lines
from regmean_lab.suites.corpora import Choices, FileSuite, OutOfDomainSettings

KEY_SCORES = ("entity_f1", "entity_f1_published")


@dataclass
class EntitySettings(OutOfDomainSettings):
    """Settings of a suite of named entity recognition, besides those of every suite.

    Attributes:
        key_score: the metric that selects epochs and is reported as the score: ``entity_f1`` (entities as the CoNLL
            evaluation script reads them) or ``entity_f1_published`` (as the code of the paper reads them). Both are
            measured.
    """

    key_score: str = KEY_SCORES[0]


class EntitySuite(FileSuite):
    """Persons, locations and organisations in sentences of several corpora.

    Every corpus is evaluated on its test split, in domain and out of domain.
    """

    settings_type = EntitySettings
    settings: EntitySettings
    choices: ClassVar[Choices] = {"key_score": KEY_SCORES}

    def task(self, corpus: str) -> Task:
        """Seven tags: the same for every corpus."""
        return Task("token_labels", LABELS, self.settings.key_score)

    def read_file(self, corpus: str, path: Path) -> list[TokenExample]:
        """Sentences with tags, from columns or (``*.json``) JSON objects."""
        return read_json_lines(path) if path.suffix == ".json" else read_columns(path)

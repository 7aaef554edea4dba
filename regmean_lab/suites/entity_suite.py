"""What the suites of named entity recognition share: settings, task, and how their files become examples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from regmean_lab.merging.base import one_of
from regmean_lab.suites.base import SPLITS, DataError, MissingDataError, Split, Suite, Task
from regmean_lab.suites.conll import LABELS, TokenExample, read_columns, read_json_lines
from regmean_lab.suites.reading import limit_problems
from regmean_lab.suites.sampling import seeded_subset
from regmean_lab.utils.files import file_sha256, json_sha256

KEY_SCORES = ("entity_f1", "entity_f1_published")


@dataclass
class EntitySettings:
    """Settings of a suite of named entity recognition.

    Attributes:
        train_examples: keep at most so many training sentences (None: all).
        dev_examples: the same for the dev split.
        test_examples: the same for the test split, in domain and out of domain.
        sample_seed: determines which sentences the limits choose.
        key_score: the metric that selects epochs and is reported as the score: ``entity_f1`` (entities as the CoNLL
            evaluation script reads them) or ``entity_f1_published`` (as the code of the paper reads them). Both are
            measured.
    """

    train_examples: int | None = None
    dev_examples: int | None = None
    test_examples: int | None = None
    sample_seed: int = 0
    key_score: str = KEY_SCORES[0]


class EntitySuite(Suite):
    """Persons, locations and organisations in sentences of several corpora.

    Every corpus is evaluated on its test split, in domain and out of domain.
    """

    folder_name: ClassVar[str]
    """Folder of the suite below ``data_dir``."""
    settings_type = EntitySettings
    settings: EntitySettings

    def __init__(self, data_dir: Path, settings: EntitySettings) -> None:
        super().__init__(data_dir, settings)
        self.folder = data_dir / self.folder_name
        self._read_files: dict[Path, list[TokenExample]] = {}

    @abstractmethod
    def path(self, corpus: str, split: Split) -> Path:
        """The file of one split of one of :attr:`candidates`."""

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        found = limit_problems(self.settings, "train_examples", "dev_examples", "test_examples")
        one_of("key_score", self.settings.key_score, KEY_SCORES, found)
        return found

    def task(self, corpus: str) -> Task:
        """Seven tags: the same for every corpus."""
        return Task("token_labels", LABELS, self.settings.key_score)

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each file of ``corpora`` that is not there."""
        return [
            self._missing_message(corpus, path)
            for corpus in corpora
            for split in SPLITS
            if not (path := self._path(corpus, split)).is_file()
        ]

    def examples(self, corpus: str, split: Split) -> list[TokenExample]:
        """Sentences of one split, in the file's order."""
        everything = self._read(corpus, split)
        limit: int | None = getattr(self.settings, f"{split}_examples")
        return [everything[index] for index in seeded_subset(len(everything), limit, self.settings.sample_seed)]

    def out_of_domain_examples(self, corpus: str) -> list[TokenExample]:
        """The test split."""
        return self.examples(corpus, "test")

    def fingerprint(self, corpus: str) -> str:
        """Hash of the three files and of the settings that choose training and dev sentences.

        ``test_examples`` is left out: it changes neither a trained member nor its statistics.
        """
        settings = self.settings
        content = {
            "suite": self.name,
            "corpus": corpus,
            "files": [file_sha256(self._require(corpus, split)) for split in SPLITS],
            "sample_seed": settings.sample_seed,
            "train_examples": settings.train_examples,
            "dev_examples": settings.dev_examples,
        }
        return json_sha256(content)

    def _path(self, corpus: str, split: Split) -> Path:
        if corpus not in self.candidates:
            raise DataError(f"{self.name}: unknown corpus {corpus!r}; known are {', '.join(self.candidates)}.")
        return self.path(corpus, split)

    def _require(self, corpus: str, split: Split) -> Path:
        path = self._path(corpus, split)
        if not path.is_file():
            raise MissingDataError(self._missing_message(corpus, path))
        return path

    def _read(self, corpus: str, split: Split) -> list[TokenExample]:
        path = self._require(corpus, split)
        if path not in self._read_files:
            self._read_files[path] = read_json_lines(path) if path.suffix == ".json" else read_columns(path)
        return self._read_files[path]

    def _missing_message(self, corpus: str, path: Path) -> str:
        return (
            f"{self.name}: {path} of corpus {corpus} is not there. What brings it: python -m regmean_lab.prepare "
            f"data_dir={self.data_dir} (layout: data/README.md). Or point paths.data_dir at the folder that holds "
            f"{self.folder_name}."
        )

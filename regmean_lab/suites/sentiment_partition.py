"""Two parts of the training examples of one sentiment domain, with unlike labels or alike.

What the suite ``glue_partition`` is for GLUE tasks, on data that come by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from regmean_lab.suites.base import Example, Split, Task, register_suite
from regmean_lab.suites.partition import (
    PARTITIONS,
    PartitionSettings,
    drawn_parts,
    partition_content,
    partition_problems,
)
from regmean_lab.suites.sentiment import DOMAINS, SentimentSettings, SentimentSuite
from regmean_lab.utils.files import json_sha256


@dataclass
class SentimentPartitionSettings(PartitionSettings, SentimentSettings):
    """Settings of the sentiment partition suite, besides those of the sentiment suite and of every partition.

    Attributes:
        domain: the domain that is divided.
    """

    domain: str = "movie"


@register_suite("sentiment_partition")
class SentimentPartitionSuite(SentimentSuite):
    """Two parts of one domain's sentences (see the module's description); nothing is out of domain.

    Both members have the same labels, so that heads are merged.

    ``train_examples`` limits each part; both parts have the domain's dev and test splits.
    """

    settings_type = SentimentPartitionSettings
    reference_order = PARTITIONS
    has_out_of_domain = False
    settings: SentimentPartitionSettings

    def __init__(self, data_dir: Path, settings: SentimentPartitionSettings) -> None:
        super().__init__(data_dir, settings)
        self._parts: dict[str, list[Example]] = {}

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if self.settings.domain not in DOMAINS:
            found.append(f"domain: expected one of {', '.join(DOMAINS)}, got {self.settings.domain!r}")
        return found + partition_problems(self.settings)

    def out_of_domain_problems(self) -> list[str]:
        """The setting is that of the sentiment suite; here it means nothing."""
        if not self.settings.out_of_domain:
            return []
        return ["out_of_domain: both parts have the same domain, and no other is evaluated; leave it out"]

    def task(self, corpus: str) -> Task:
        """That of the domain."""
        return super().task(self.settings.domain)

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """What is wrong with the domain's file."""
        return super().missing([self.settings.domain])

    def prepare(self, corpora: Sequence[str]) -> None:
        """Bring the domain's file."""
        super().prepare([self.settings.domain])

    def all_examples(self, corpus: str, split: Split) -> list[Example]:
        """One part of the training examples, or the domain's split, before the limits."""
        if split != "train":
            return super().all_examples(self.settings.domain, split)
        if not self._parts:
            everything = super().all_examples(self.settings.domain, "train")
            self._parts = drawn_parts(everything, self.settings, regression=self.settings.target == "regression")
        return self._parts[corpus]

    def fingerprint(self, corpus: str) -> str:
        """Hash of the domain's fingerprint and of the settings that divide it."""
        content = {"suite": self.name, "corpus": corpus, "domain": super().fingerprint(self.settings.domain)}
        return json_sha256({**content, **partition_content(self.settings)})

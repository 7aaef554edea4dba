"""Two parts of the training examples of one sentiment domain, with unlike labels or alike.

What the suite ``glue_partition`` is for GLUE tasks, on data that come by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.suites.base import Example, Split, Task, register_suite
from regmean_lab.suites.partition import PARTITIONS, partition_problems, parts_of
from regmean_lab.suites.sampling import seeded_subset
from regmean_lab.suites.sentiment import DOMAINS, SentimentSettings, SentimentSuite
from regmean_lab.utils.files import json_sha256


@dataclass
class SentimentPartitionSettings(SentimentSettings):
    """Settings of the sentiment partition suite, besides those of the sentiment suite.

    Attributes:
        domain: the domain that is divided.
        partition: ``non_iid`` (one label mostly in the first part, the other mostly in the second) or ``iid`` (random
            halves).
        examples: how many training examples are drawn and divided (None: all).
        majority_share: with ``non_iid``, the share of one label's examples that the first part gets; of the other label
            it gets the rest of 1.
        partition_seed: determines which examples are drawn, which label it is, and the parts.
    """

    domain: str = "movie"
    partition: str = "non_iid"
    examples: int | None = 2000
    majority_share: float = 0.8
    partition_seed: int = 1


@register_suite("sentiment_partition")
class SentimentPartitionSuite(SentimentSuite):
    """Two parts of one domain (see the module's description); heads are merged, and nothing is out of domain.

    ``train_examples`` limits each part; both parts have the domain's dev and test splits.
    """

    settings_type = SentimentPartitionSettings
    reference_order = PARTITIONS
    settings: SentimentPartitionSettings

    def __init__(self, data_dir: Path, settings: SentimentPartitionSettings) -> None:
        super().__init__(data_dir, settings)
        self._parts: tuple[list[Example], list[Example]] | None = None

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        settings = self.settings
        found = super().problems()
        if settings.domain not in DOMAINS:
            found.append(f"domain: expected one of {', '.join(DOMAINS)}, got {settings.domain!r}")
        if settings.out_of_domain:
            found.append("out_of_domain: both parts have the same domain, and no other is evaluated; leave it out")
        return found + partition_problems(settings.partition, settings.examples, settings.majority_share)

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """None."""
        return ()

    def task(self, corpus: str) -> Task:
        """That of the domain."""
        return super().task(self.settings.domain)

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """What is wrong with the domain's file."""
        return super().missing([self.settings.domain])

    def prepare(self, corpora: Sequence[str]) -> None:
        """Bring the domain's file."""
        super().prepare([self.settings.domain])

    def examples(self, corpus: str, split: Split) -> list[Example]:
        """One part of the training examples, or the domain's split."""
        settings = self.settings
        if split != "train":
            return super().examples(settings.domain, split)
        if self._parts is None:
            everything = self.all_examples(settings.domain, "train")
            chosen = seeded_subset(len(everything), settings.examples, settings.partition_seed)
            drawn = [everything[index] for index in chosen]
            self._parts = parts_of(
                drawn,
                settings.partition,
                settings.majority_share,
                settings.partition_seed,
                regression=settings.target == "regression",
            )
        part = self._parts[PARTITIONS.index(corpus)]
        return [part[index] for index in seeded_subset(len(part), settings.train_examples, settings.split_seed)]

    def fingerprint(self, corpus: str) -> str:
        """Hash of the domain's fingerprint and of the settings that divide it."""
        settings = self.settings
        content = {
            "suite": self.name,
            "corpus": corpus,
            "domain": super().fingerprint(settings.domain),
            "partition": settings.partition,
            "examples": settings.examples,
            "majority_share": settings.majority_share if settings.partition == "non_iid" else None,
            "partition_seed": settings.partition_seed,
        }
        return json_sha256(content)

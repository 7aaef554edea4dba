"""The GLUE partition suite: one task's training examples in two parts, with unlike labels or alike.

Two members of the same task differ in their data only. The parts are those of Jin et al., "Dataless Knowledge Fusion by
Merging Weights of Language Models", ICLR 2023.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.suites.base import DataError, Example, Split, Suite, Task, register_suite
from regmean_lab.suites.glue_data import TASKS, GlueData
from regmean_lab.suites.partition import PARTITIONS, partition_problems, parts_of
from regmean_lab.suites.reading import limit_problems
from regmean_lab.suites.sampling import seeded_subset
from regmean_lab.utils.files import json_sha256


@dataclass
class GluePartitionSettings:
    """Settings of the GLUE partition suite.

    Attributes:
        task: the GLUE task.
        partition: ``non_iid`` (one label mostly in the first part, the others mostly in the second) or ``iid`` (random
            halves).
        examples: how many training examples are drawn and divided (None: all).
        majority_share: with ``non_iid``, the share of one label's examples that the first part gets; of all other
            labels it gets the rest of 1.
        partition_seed: determines which examples are drawn, which label it is, and the parts.
        train_examples: keep at most so many training examples of each part (None: all).
        dev_examples: keep at most so many of the validation split as dev.
        test_examples: the same for the evaluation, which is on the validation split, too.
        sample_seed: determines which examples the last three choose.
    """

    task: str = "sst2"
    partition: str = "non_iid"
    examples: int | None = 2000
    majority_share: float = 0.8
    partition_seed: int = 1
    train_examples: int | None = None
    dev_examples: int | None = None
    test_examples: int | None = None
    sample_seed: int = 0


@register_suite("glue_partition")
class GluePartitionSuite(Suite):
    """Two parts of the training examples of one GLUE task (see the module's description).

    Both members have the same labels, so that heads are merged, and both are evaluated on the task's validation split
    (of mnli, the matched one), which is also dev: there are no other labelled examples. Nothing is out of domain.
    """

    settings_type = GluePartitionSettings
    reference_order = PARTITIONS
    settings: GluePartitionSettings

    def __init__(self, data_dir: Path, settings: GluePartitionSettings) -> None:
        super().__init__(data_dir, settings)
        self.data = GlueData(data_dir)
        self._examples: dict[tuple[str, Split], list[Example]] = {}

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        settings = self.settings
        found = limit_problems(settings, "train_examples", "dev_examples", "test_examples")
        if settings.task not in TASKS:
            near = difflib.get_close_matches(settings.task, TASKS, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(TASKS)}"
            found.append(f"task: no GLUE task {settings.task!r}; {hint}")
        found += partition_problems(settings.partition, settings.examples, settings.majority_share)
        return found

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """None."""
        return ()

    def task(self, corpus: str) -> Task:
        """The GLUE task, the same for both parts."""
        return TASKS[self.settings.task].task

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """What is missing of the GLUE task, if it is neither in a local folder nor to be had from the hub."""
        return self.data.missing([self.settings.task])

    def prepare(self, corpora: Sequence[str]) -> None:
        """Bring the task from the hub, if it has no local folder, and divide it.

        Raises:
            DataError: if the task has fewer training examples than are to be drawn.
        """
        self.data.prepare([self.settings.task])
        for corpus in corpora:
            self.examples(corpus, "train")

    def examples(self, corpus: str, split: Split) -> list[Example]:
        """One part of the training examples, or the validation split: the same list for both parts.

        Raises:
            DataError: if the task has fewer training examples than are to be drawn.
        """
        key = (corpus if split == "train" else "", split)
        if key not in self._examples:
            validation = self.data.examples(self.settings.task, "validation")
            everything = self._part(corpus) if split == "train" else validation
            limit: int | None = getattr(self.settings, f"{split}_examples")
            chosen = seeded_subset(len(everything), limit, self.settings.sample_seed)
            self._examples[key] = [everything[index] for index in chosen]
        return self._examples[key]

    def fingerprint(self, corpus: str) -> str:
        """Hash of the task's examples and of the settings that choose training and dev examples.

        ``test_examples`` is left out: it changes neither a trained member nor its statistics.
        """
        settings = self.settings
        content = {
            "suite": self.name,
            "corpus": corpus,
            "content": self.data.content_hash(settings.task),
            "partition": settings.partition,
            "examples": settings.examples,
            "majority_share": settings.majority_share if settings.partition == "non_iid" else None,
            "partition_seed": settings.partition_seed,
            "sample_seed": settings.sample_seed,
            "train_examples": settings.train_examples,
            "dev_examples": settings.dev_examples,
        }
        return json_sha256(content)

    def _part(self, corpus: str) -> list[Example]:
        settings = self.settings
        everything = self.data.examples(settings.task, "train")
        if settings.examples is not None and settings.examples > len(everything):
            raise DataError(
                f"glue_partition: suite.examples={settings.examples}, but {settings.task} has {len(everything)} "
                "training examples; ask for fewer, or for all of them with suite.examples=null"
            )
        chosen = seeded_subset(len(everything), settings.examples, settings.partition_seed)
        drawn = [everything[index] for index in chosen]
        regression = TASKS[settings.task].is_regression
        parts = parts_of(
            drawn, settings.partition, settings.majority_share, settings.partition_seed, regression=regression
        )
        return parts[PARTITIONS.index(corpus)]

"""The GLUE partition suite: one task's training examples in two parts, with unlike labels or alike.

Two members of the same task differ in their data only. The parts are those of Jin et al., "Dataless Knowledge Fusion by
Merging Weights of Language Models", ICLR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from regmean_lab.suites.base import DataError, Example, Split, Task, register_suite
from regmean_lab.suites.corpora import CorpusSettings, CorpusSuite
from regmean_lab.suites.glue_data import TASKS, GlueData
from regmean_lab.suites.partition import (
    PARTITIONS,
    PartitionSettings,
    drawn_parts,
    partition_content,
    partition_problems,
)
from regmean_lab.utils.names import did_you_mean


@dataclass
class GluePartitionSettings(PartitionSettings, CorpusSettings):
    """Settings of the GLUE partition suite, besides those of every suite and of every partition.

    Attributes:
        task: the GLUE task. ``train_examples`` limits each part of its training examples.
    """

    task: str = "sst2"


@register_suite("glue_partition")
class GluePartitionSuite(CorpusSuite):
    """Two parts of the training examples of one GLUE task (see the module's description).

    Both members have the same labels, so that heads are merged, and both are evaluated on the task's validation split
    (of mnli, the matched one), which is also dev: there are no other labelled examples. Nothing is out of domain.
    """

    settings_type = GluePartitionSettings
    reference_order = PARTITIONS
    released_members = ("partition_0", "partition_1")
    has_out_of_domain = False
    settings: GluePartitionSettings

    def __init__(self, data_dir: Path, settings: GluePartitionSettings) -> None:
        super().__init__(data_dir, settings)
        self.data = GlueData(data_dir)
        self._parts: dict[str, list[Example]] = {}
        self._examples: dict[tuple[str, Split], list[Example]] = {}

    @override
    def problems(self) -> list[str]:
        settings = self.settings
        found = super().problems()
        if settings.task not in TASKS:
            found.append(f"task: no GLUE task {settings.task!r}; {did_you_mean(settings.task, TASKS)}")
        return found + partition_problems(settings)

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
            self._examples[key] = super().examples(corpus, split)
        return self._examples[key]

    def all_examples(self, corpus: str, split: Split) -> list[Example]:
        """One part of the training examples, or the validation split, before the limits."""
        if split != "train":
            return self.data.examples(self.settings.task, "validation")
        if not self._parts:
            settings, everything = self.settings, self.data.examples(self.settings.task, "train")
            if settings.examples is not None and settings.examples > len(everything):
                raise DataError(
                    f"glue_partition: suite.examples={settings.examples}, but {settings.task} has {len(everything)} "
                    "training examples; ask for fewer, or for all of them with suite.examples=null"
                )
            self._parts = drawn_parts(everything, settings, regression=TASKS[settings.task].is_regression)
        return self._parts[corpus]

    def content(self, corpus: str) -> dict[str, Any]:
        """Hash of the task's examples, and how they are divided."""
        return {"content": self.data.content_hash(self.settings.task), **partition_content(self.settings)}

"""The GLUE partition suite: one task's training examples in two parts, with unlike labels or alike.

Two members of the same task differ in their data only. The parts are those of Jin et al., "Dataless Knowledge Fusion by
Merging Weights of Language Models", ICLR 2023.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.suites.base import DataError, Example, Split, Suite, Task, register_suite
from regmean_lab.suites.glue_data import TASKS, GlueData
from regmean_lab.suites.reading import limit_problems
from regmean_lab.suites.sampling import seeded_permutation, seeded_subset

PARTITIONS = ("partition_0", "partition_1")
KINDS = ("non_iid", "iid")


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


def divide(classes: Sequence[int], majority_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide examples in two: ``majority_share`` of one class, chosen at random, and of the others the rest of 1.

    Args:
        classes: class of each example.
        majority_share: share of the chosen class that the first part gets, from 0 to 1.
        seed: determines the choice of the class and of the examples.

    Returns:
        Indices of the two parts, each in ascending order. Shares are rounded to whole examples, class by class.
    """
    present = sorted(set(classes))
    chosen = present[int(random.Random(f"majority {seed}").random() * len(present))]
    first: set[int] = set()
    for label in present:
        indices = [index for index, own in enumerate(classes) if own == label]
        share = majority_share if label == chosen else 1 - majority_share
        order = seeded_permutation(len(indices), f"class {label} seed {seed}")
        first.update(indices[place] for place in order[: round(share * len(indices))])
    return sorted(first), [index for index in range(len(classes)) if index not in first]


def halve(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Divide ``count`` examples into random halves, the first with the odd one; indices in ascending order."""
    order = seeded_permutation(count, f"halves {seed}")
    middle = (count + 1) // 2
    return sorted(order[:middle]), sorted(order[middle:])


def classes_of(examples: Sequence[Example], regression: bool) -> list[int]:
    """Label of each example; of a regression 0 or 1, for the lower or upper half of the range of their labels."""
    values = [example.label for example in examples if not isinstance(example.label, tuple)]
    if not regression:
        return [int(value) for value in values]
    middle = (min(values) + max(values)) / 2
    return [int(value > middle) for value in values]


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
        if settings.partition not in KINDS:
            found.append(f"partition: expected one of {', '.join(KINDS)}, got {settings.partition!r}")
        if settings.examples is not None and settings.examples < 2:
            found.append(f"examples: expected at least 2 or null, got {settings.examples}")
        if not 0 <= settings.majority_share <= 1:
            found.append(f"majority_share: expected a share from 0 to 1, got {settings.majority_share}")
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

    def out_of_domain_examples(self, corpus: str) -> list[Example]:
        """There are none.

        Raises:
            DataError: always.
        """
        raise DataError(f"glue_partition: {corpus} is never out of domain")

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
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

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
        if settings.partition == "iid":
            parts = halve(len(drawn), settings.partition_seed)
        else:
            classes = classes_of(drawn, TASKS[settings.task].is_regression)
            parts = divide(classes, settings.majority_share, settings.partition_seed)
        return [drawn[index] for index in parts[PARTITIONS.index(corpus)]]

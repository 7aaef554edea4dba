"""The GLUE suite: nine tasks with labels of their own, so that members share an encoder but no head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.suites.base import Example, Split, Suite, Task, register_suite
from regmean_lab.suites.glue_data import TASKS, GlueData
from regmean_lab.suites.reading import limit_problems
from regmean_lab.suites.sampling import seeded_subset
from regmean_lab.utils.files import json_sha256


@dataclass
class GlueSettings:
    """Settings of the GLUE suite.

    Attributes:
        train_examples: keep at most so many training examples (None: all).
        dev_examples: keep at most so many of the validation split as dev.
        test_examples: the same for the evaluation, which is on the validation split, too.
        sample_seed: determines which examples the limits choose.
    """

    train_examples: int | None = None
    dev_examples: int | None = None
    test_examples: int | None = None
    sample_seed: int = 0


@register_suite("glue")
class GlueSuite(Suite):
    """Nine tasks of sentences and pairs of sentences (see :mod:`regmean_lab.suites.glue_data`).

    Every member keeps its own head, and there is nothing out of domain. Labels of the test splits are hidden, so that
    dev and test are both the validation split (of mnli, the matched one), as published: an epoch that were selected by
    its score on dev would be selected on what is evaluated, and members are the last epoch's by default.
    """

    settings_type = GlueSettings
    reference_order = tuple(TASKS)
    own_heads = True
    settings: GlueSettings

    def __init__(self, data_dir: Path, settings: GlueSettings) -> None:
        super().__init__(data_dir, settings)
        self.data = GlueData(data_dir)

    def problems(self) -> list[str]:
        """What is wrong with the settings."""
        return limit_problems(self.settings, "train_examples", "dev_examples", "test_examples")

    def out_of_domain(self, merged: Sequence[str]) -> tuple[str, ...]:
        """None: a task's examples say nothing of another task."""
        return ()

    def task(self, corpus: str) -> Task:
        """The task's own labels and key score."""
        return TASKS[corpus].task

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each task that is neither in a local folder nor to be had from the hub."""
        return self.data.missing(corpora)

    def prepare(self, corpora: Sequence[str]) -> None:
        """Bring tasks that have no local folder from the hub."""
        self.data.prepare(corpora)

    def examples(self, corpus: str, split: Split) -> list[Example]:
        """The training split, or for dev and test the validation split, after the limits."""
        everything = self.data.examples(corpus, "train" if split == "train" else "validation")
        limit: int | None = getattr(self.settings, f"{split}_examples")
        return [everything[index] for index in seeded_subset(len(everything), limit, self.settings.sample_seed)]

    def fingerprint(self, corpus: str) -> str:
        """Hash of the task's examples and of the settings that choose training and dev examples.

        ``test_examples`` is left out: it changes neither a trained member nor its statistics.
        """
        settings = self.settings
        content = {
            "suite": self.name,
            "corpus": corpus,
            "content": self.data.content_hash(corpus),
            "sample_seed": settings.sample_seed,
            "train_examples": settings.train_examples,
            "dev_examples": settings.dev_examples,
        }
        return json_sha256(content)

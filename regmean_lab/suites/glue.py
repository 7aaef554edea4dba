"""The GLUE suite: nine tasks with labels of their own, so that members share an encoder but no head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regmean_lab.suites.base import Example, Split, Task, register_suite
from regmean_lab.suites.corpora import CorpusSettings, CorpusSuite
from regmean_lab.suites.glue_data import TASKS, GlueData


@register_suite("glue")
class GlueSuite(CorpusSuite):
    """Nine tasks of sentences and pairs of sentences (see :mod:`regmean_lab.suites.glue_data`).

    Every member keeps its own head, and there is nothing out of domain: a task's examples say nothing of another task.
    Labels of the test splits are hidden, so that dev and test are both the validation split (of mnli, the matched one),
    as published: an epoch that were selected by its score on dev would be selected on what is evaluated, and members
    are the last epoch's by default.
    """

    settings_type = CorpusSettings
    reference_order = tuple(TASKS)
    released_members = ("cola", "sst2", "mrpc", "stsb", "mnli", "qnli", "qqp", "rte", "wnli")
    own_heads = True
    has_out_of_domain = False

    def __init__(self, data_dir: Path, settings: CorpusSettings) -> None:
        super().__init__(data_dir, settings)
        self.data = GlueData(data_dir)

    def task(self, corpus: str) -> Task:
        """The task's own labels and key score."""
        return TASKS[corpus].task

    def missing(self, corpora: Sequence[str]) -> list[str]:
        """One message for each task that is neither in a local folder nor to be had from the hub."""
        return self.data.missing(corpora)

    def prepare(self, corpora: Sequence[str]) -> None:
        """Bring tasks that have no local folder from the hub."""
        self.data.prepare(corpora)

    def all_examples(self, corpus: str, split: Split) -> list[Example]:
        """The training split, or for dev and test the validation split."""
        return self.data.examples(corpus, "train" if split == "train" else "validation")

    def content(self, corpus: str) -> dict[str, Any]:
        """Hash of the task's examples."""
        return {"content": self.data.content_hash(corpus)}

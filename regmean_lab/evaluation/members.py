"""Members as a merge takes them: where their weights and data are, and the callback that merges them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from regmean_lab.callbacks.merge import MemberSource, MergeCallback
from regmean_lab.callbacks.refine import TextReading
from regmean_lab.callbacks.statistics import requests_of
from regmean_lab.evaluation.job import Job
from regmean_lab.evaluation.scores import load_module
from regmean_lab.merging import MergeMethod
from regmean_lab.models.base_weights import base_weights
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.pretrained import shared_tokenizer
from regmean_lab.suites import Suite
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.zoo import ZooEntry


def member_source(suite: Suite, data: CorpusDataModule, member: str, entry: ZooEntry) -> MemberSource:
    """Where the weights and the data of a member are."""
    task = suite.task(member)
    return MemberSource(
        member,
        entry,
        suite.fingerprint(member),
        suite.annotated_labels(member) if task.kind == "multi_label" else None,
        partial(load_module, entry.path, task),
        partial(data.statistics_dataloader, member),
    )


def member_sources(job: Job, data: CorpusDataModule, members: Sequence[str]) -> list[MemberSource]:
    """Some members of a job, in order."""
    return [member_source(job.settings.suite, data, member, job.entries[member]) for member in members]


def merge_callback(job: Job, sources: Sequence[MemberSource], method: MergeMethod) -> MergeCallback:
    """What merges members inside ``Trainer.test``, with what the job's configuration says of statistics."""
    config = job.settings.config
    return MergeCallback(
        list(sources),
        method,
        requests_of(config.statistics, config.training, config.trainer),
        own_heads=job.settings.suite.own_heads,
        base=partial(base_weights, job.checkpoint, cache_dir=Path(config.paths.zoo_dir) / MODELS_FOLDER),
        reading=TextReading(
            config.training.batch_size,
            config.statistics.seed,
            config.statistics.batch_tokens,
            partial(shared_tokenizer, job.checkpoint),
            config.training.max_length,
        ),
    )

"""What a sweep does before its jobs: train one member, or collect one kind of its statistics.

Hydra's launchers send jobs by their overrides. So a step travels as the overrides of a job that needs it, and the step
itself beside the sweeper's settings, ``hydra.sweeper.step``: no part of a job's configuration.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import AutoModel

from regmean_lab.callbacks.statistics import StatisticsRequest, collect_for_entry, open_statistics, requests_of
from regmean_lab.checkpoints.given_members import check_configuration, find_or_make
from regmean_lab.config.schema import Settings
from regmean_lab.evaluation.job import Job
from regmean_lab.evaluation.members import member_source
from regmean_lab.merging import Layout, MergeMethod
from regmean_lab.merging.layout import layout_of
from regmean_lab.models.pretrained import Checkpoint, quiet_transformers
from regmean_lab.tracking.logged_results import log_statistics
from regmean_lab.tracking.loggers import open_loggers
from regmean_lab.training.train import trainings_of
from regmean_lab.training.trainers import test_trainer

STEP_KEY = "hydra.sweeper.step"


@dataclass(frozen=True)
class Step:
    """One thing that jobs of a sweep share.

    Attributes:
        member: the model that is trained, or whose statistics are collected, as jobs call it.
        statistics: the kind of statistics; None to train the member.
    """

    member: str
    statistics: str | None = None

    @property
    def name(self) -> str:
        """The step in words."""
        return f"train {self.member}" if self.statistics is None else f"{self.statistics} statistics of {self.member}"

    def overrides(self, job: Sequence[str], job_folder: str) -> list[str]:
        """What a launcher is given to have the step done.

        Args:
            job: overrides of a job that needs it.
            job_folder: that job's folder below the output folder; the step writes its logs elsewhere.
        """
        content = f"member: {quoted(self.member)}"
        if self.statistics is not None:
            content += f", statistics: {quoted(self.statistics)}"
        return [*job, f"+{STEP_KEY}={{{content}}}", f"hydra.sweep.subdir={quoted(self.folder(job_folder))}"]

    def folder(self, job_folder: str) -> str:
        """Where the step writes its logs, below the output folder; ``job_folder`` is that of a job that needs it."""
        experiment, _, rest = job_folder.partition("/")
        return f"{experiment}/steps/{rest}/{self.statistics or 'train'}-{self.member}"


def step_of(sweeper: Mapping[str, Any]) -> Step | None:
    """The step that a launched job is, by its sweeper's settings; None of a job proper."""
    step = sweeper.get("step")
    return None if step is None else Step(**step)


def run_step(step: Step, config: DictConfig, folder: Path) -> None:
    """Find or train a member, and collect statistics of it if the step asks for them; nothing is evaluated.

    Args:
        step: what to do.
        config: the configuration of a job that needs it.
        folder: where logs are written.

    Raises:
        ConfigurationError: with everything that is wrong, before any work.
    """
    settings, checkpoint, given = check_configuration(config)
    # What is only evaluated is not read: broken test data of one member must not keep the others from training.
    settings.suite.prepare(settings.corpora)
    (needed,) = (training for training in trainings_of(settings) if training.name == step.member)
    entry = find_or_make(settings, needed, checkpoint, folder, given)
    if step.statistics is None:
        return
    data = Job(settings, checkpoint, [], "", folder).data_module()
    source = member_source(settings.suite, data, step.member, entry)
    trainer = test_trainer(settings.config.trainer)
    for request in requests_for(settings, empty_layout(checkpoint)):
        if request.kind != step.statistics or request.find(entry, source.data_fingerprint) is not None:
            continue
        config_of_logs, experiment = settings.config.logger, settings.config.experiment
        logs, title = (
            folder / "statistics" / f"{step.member}-{request.kind}",
            f"{request.kind} statistics of {entry.name}",
        )
        with open_loggers(config_of_logs, logs, title, "statistics", experiment, settings.resolved) as loggers:
            started = time.perf_counter()
            collect_for_entry(trainer, entry, request, source.load, source.batches, source.data_fingerprint)
            seconds = time.perf_counter() - started
            with open_statistics(entry, request, source.data_fingerprint) as file:
                log_statistics(loggers, file, seconds)


def requests_for(settings: Settings, layout: Layout | None) -> list[StatisticsRequest]:
    """The statistics of each member that a job's method needs, of all layers, so that other jobs can use them too.

    Args:
        settings: the job's configuration.
        layout: the model's layout; None if the model is not here.
    """
    config, method = settings.config, settings.method
    if not isinstance(method, MergeMethod):
        return []
    experts = layout is not None and method.by_layer and method.reads_experts and bool(layout.stacked)
    return [
        replace(request, experts=experts) if request.about.of == "inputs" else request
        for request in requests_of(config.statistics, config.training, config.trainer)
        if request.kind in method.statistics
    ]


def empty_layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a model without its head, from its configuration alone."""
    with quiet_transformers(), torch.device("meta"):
        return layout_of(AutoModel.from_config(checkpoint.config()))


def quoted(text: str) -> str:
    """A text as Hydra's grammar has it in quotes; there are no backslashes in names."""
    return '"{}"'.format(text.replace('"', '\\"'))

"""The work of a step: see :mod:`regmean_lab.sweeps.steps`."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig

from regmean_lab.callbacks.statistics import collect_for_entry, open_statistics
from regmean_lab.checkpoints.checks import check
from regmean_lab.checkpoints.job_members import find_or_make
from regmean_lab.config.schema import settings_of
from regmean_lab.evaluation.job import Job
from regmean_lab.evaluation.members import member_source
from regmean_lab.sweeps.steps import Step, empty_layout, requests_for
from regmean_lab.tracking.logged_results import log_statistics
from regmean_lab.tracking.loggers import open_loggers
from regmean_lab.training.descriptions import trainings_of
from regmean_lab.training.trainers import test_trainer


def run_step(step: Step, config: DictConfig, folder: Path) -> None:
    """Find or train a member, and collect statistics of it if the step asks for them; nothing is evaluated.

    Args:
        step: what to do.
        config: the configuration of a job that needs it.
        folder: where logs are written.

    Raises:
        ConfigurationError: with everything that is wrong, before any work.
    """
    settings = settings_of(config)
    checkpoint, given = check(settings)
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

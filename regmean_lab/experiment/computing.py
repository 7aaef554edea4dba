"""The work of a job whose result is not there yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch

from regmean_lab.checkpoints.checks import check
from regmean_lab.checkpoints.given_members import GivenMember
from regmean_lab.checkpoints.job_members import find_or_make
from regmean_lab.config.method_option import chosen_option
from regmean_lab.config.schema import Settings
from regmean_lab.evaluation.evaluators import best_out_of_domain_first, evaluate
from regmean_lab.evaluation.finished import finished_result
from regmean_lab.evaluation.job import Job, Outcome
from regmean_lab.evaluation.label_spaces import unknown_labels
from regmean_lab.merging import MergeMethod
from regmean_lab.models.merged_model import model_card, write_merged_model
from regmean_lab.results import (
    MERGED_FOLDER,
    RESULT_FILE,
    Result,
    candidates_fingerprint,
    fingerprint,
    mean,
    unknown_text,
    zero_note,
)
from regmean_lab.tracking.environment import environment, peak_memory_bytes
from regmean_lab.tracking.logged_results import log_result
from regmean_lab.tracking.loggers import open_loggers
from regmean_lab.training.descriptions import trainings_of
from regmean_lab.training.processes import first_device
from regmean_lab.utils.memory import halved, memory_for, other_device
from regmean_lab.utils.progress import at_stage

log = logging.getLogger(__name__)


def compute(settings: Settings, folder: Path, overrides: list[str]) -> tuple[Result, bool]:
    """Compute a job's result; one that is finished is found where that could not be told before: data were brought now.

    Args:
        settings: the job's configuration, whose values were checked.
        folder: where the job writes.
        overrides: the overrides that made the configuration, for the record.

    Returns:
        The result, and whether it was computed now.

    Raises:
        ConfigurationError: with everything that is missing, before any work.
    """
    checkpoint, given = check(settings)
    job = Job.open(settings, checkpoint, folder, {name: member.record for name, member in given.items()})
    candidates = None
    if settings.config.order == "greedy":
        candidates = candidates_fingerprint(job.data_fingerprint, job.model_fingerprint)
        find_or_train_members(job, given)  # all of them, whatever number is merged
        with memory_for_evaluation(job):
            order = best_out_of_domain_first(job)
        job = job.of_members(order[: settings.config.first])
    finished = finished_result(
        job.settings, job.model_fingerprint, job.data_fingerprint, folder, lambda: job.evaluations, ordered=True
    )
    if finished is not None:
        log.info("found the finished result %s", folder / RESULT_FILE)
        return finished, False
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    find_or_train_members(job, given)
    result = replace(evaluate_and_log(job, overrides), candidates=candidates)
    result.write(folder)  # last, and whole or not at all
    return result, True


def find_or_train_members(job: Job, given: Mapping[str, GivenMember] | None = None) -> None:
    """Fill ``job.entries``: with every member, or for joint training with one model of all members' data."""
    with job.timed("train"):
        for needed in trainings_of(job.settings):
            job.entries[needed.name] = find_or_make(job.settings, needed, job.checkpoint, job.folder, given or {})


def memory_for_evaluation(job: Job) -> AbstractContextManager[None]:
    """Say of an error for lack of memory what was evaluated, and what takes less; merging in it says so itself."""
    config = job.settings.config
    device, batch_size = str(first_device(config.trainer.accelerator)), config.training.eval_batch_size
    what = f"{job.settings.method.name} of {', '.join(job.settings.members)}"
    work = f"evaluate {what}, on {device} in batches of {batch_size} examples"
    return memory_for(
        work, [*halved("training.eval_batch_size", batch_size, "same members and scores"), *other_device(device)]
    )


def evaluate_and_log(job: Job, overrides: list[str]) -> Result:
    """Evaluate the method, which merges inside ``Trainer.test`` or is a baseline, and write the merged model."""
    settings, config = job.settings, job.settings.config
    name = f"{'+'.join(settings.members)} {settings.method.name} seed {config.seed}"
    job_type = "merge" if isinstance(settings.method, MergeMethod) else "evaluate"
    with open_loggers(config.logger, job.folder, name, job_type, config.experiment, settings.resolved) as loggers:
        pl.seed_everything(config.seed, workers=True, verbose=False)
        at_stage("evaluate")
        with memory_for_evaluation(job):
            outcome = evaluate(job)
        result = result_of(job, outcome, overrides)
        log_result(loggers, result, {evaluation.name: evaluation.task.key_score for evaluation in job.evaluations})
    if config.save_merged:
        assert outcome.module is not None
        card = model_card(result, settings.resolved["method"], config.model.checkpoint)
        write_merged_model(outcome.module.model.cpu(), job.checkpoint.tokenizer(), card, job.folder / MERGED_FOLDER)
    return result


def result_of(job: Job, outcome: Outcome, overrides: list[str]) -> Result:
    """Everything that was measured, ready to be written."""
    settings, config = job.settings, job.settings.config
    device = first_device(config.trainer.accelerator)
    mean_in_domain = mean(outcome.scores["in_domain"].values())
    if unknown := unknown_labels(settings.suite, settings.members, job.evaluations):
        log.info("no member was trained on these labels, which are not predicted (F1 0): %s", unknown_text(unknown))
    assert mean_in_domain is not None
    if (zero := zero_note(settings.method.name, outcome.scores["in_domain"])) is not None:
        log.warning("%s", zero)
    return Result(
        fingerprint=fingerprint(settings.resolved),
        experiment=config.experiment,
        suite=settings.suite.name,
        model=config.model.name,
        method=settings.method.name,
        members=list(settings.members),
        seed=config.seed,
        head_init=config.head_init,
        scores=outcome.scores,
        mean_in_domain=mean_in_domain,
        mean_out_of_domain=mean(outcome.scores["out_of_domain"].values()),
        metrics=outcome.metrics,
        seconds=job.seconds,
        peak_memory_bytes=peak_memory_bytes(device),
        environment=environment(device, overrides),
        data_fingerprint=job.data_fingerprint,
        zoo={name: entry.address for name, entry in job.entries.items()},
        diagnostics=outcome.diagnostics,
        notes=outcome.notes + ([] if zero is None else [zero]),
        configuration=settings.resolved,
        model_fingerprint=job.model_fingerprint,
        checkpoints={name: dict(record) for name, record in job.checkpoints.items()},
        unknown_labels=unknown,
        selection=settings.resolved.get("selection"),
        divergence=outcome.divergence,
        choice=outcome.choice,
        statistics_bytes=outcome.statistics_bytes,
        method_option=chosen_option(settings.method.name),
    )

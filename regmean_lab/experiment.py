"""One job from configuration to ``result.json``: the whole story, top to bottom."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from regmean_lab.callbacks.merge import MemberSource
from regmean_lab.callbacks.statistics import StatisticsRequest, collect_for_entry, open_statistics, requests_of
from regmean_lab.config.schema import ConfigurationError, Settings, settings_of
from regmean_lab.evaluation.evaluators import evaluator_of, member_source, predictions_of
from regmean_lab.evaluation.job import Job, Outcome
from regmean_lab.evaluation.label_spaces import counts_unknown, known_labels, label_differences, unknown_labels
from regmean_lab.evaluation.scores import key_scores, metrics_of
from regmean_lab.merging import MergeMethod
from regmean_lab.models.merged_model import model_card, write_merged_model
from regmean_lab.models.pretrained import MODELS_FOLDER, Checkpoint, ModelError, find_checkpoint
from regmean_lab.modules import module_type
from regmean_lab.results import (
    MERGED_FOLDER,
    RESULT_FILE,
    Result,
    combine_fingerprints,
    find_result,
    fingerprint,
    mean,
    unknown_text,
)
from regmean_lab.suites.data_module import evaluations_for
from regmean_lab.tracking.environment import environment, peak_memory_bytes
from regmean_lab.tracking.logged_results import log_result, log_statistics
from regmean_lab.tracking.loggers import logger_problems, open_loggers
from regmean_lab.training.processes import device_problems, first_device
from regmean_lab.training.starting_heads import head_problems
from regmean_lab.training.train import find_or_train, trainings_of
from regmean_lab.training.trainers import test_trainer

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path, overrides: list[str]) -> tuple[Result | None, bool]:
    """Run one job, or find its finished result; or run one stage of it, which has none.

    Args:
        config: the composed configuration, without Hydra's own part.
        folder: where the job writes.
        overrides: the overrides that made the configuration, for the record.

    Returns:
        The result (None of a stage), and whether it was computed now.

    Raises:
        ConfigurationError: with everything that is wrong, before any work.
    """
    settings = settings_of(config)
    checkpoint = check_files(settings)
    stage = settings.config.stage
    if settings.config.order == "greedy" and stage != "train":
        settings = replace(settings, members=greedy_order(prepare(settings, checkpoint, folder)))
    if stage == "all":
        job = prepare(settings, checkpoint, folder)
    else:
        # What is only evaluated is not read: broken test data of one member must not keep the others from training.
        settings.suite.prepare(corpora_of(settings))
        job = Job(settings, checkpoint, [], "", folder)
    finished = finished_result(job) if stage == "all" else None
    if finished is not None:
        log.info("found the finished result %s", folder / RESULT_FILE)
        return finished, False
    try:
        if stage == "all":
            return compute(job, overrides), True
        run_stage(job)
        return None, True
    finally:
        # Jobs of a sweep share a process: leave no memory of the GPU behind for the next one.
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def greedy_order(job: Job) -> tuple[str, ...]:
    """The members that are merged, by their own mean key score out of domain, best first.

    Members that are not in the zoo are trained, all of them, whatever number is merged.
    """
    outside = [number for number, evaluation in enumerate(job.evaluations) if evaluation.domain == "out"]
    evaluations = [job.evaluations[number] for number in outside]
    scores = {}
    find_or_train_members(job)
    for member in job.settings.members:
        known = known_labels(job.settings.suite, [member])
        metrics = metrics_of(evaluations, predictions_of(job, member, outside), known)
        own = mean(key_scores(evaluations, metrics)["out_of_domain"].values())
        assert own is not None  # the configuration was checked for corpora out of domain
        scores[member] = own
    order = sorted(scores, key=lambda member: -scores[member])
    log.info("order of members: %s", ", ".join(f"{member} ({scores[member]:.2f})" for member in order))
    return tuple(order[: job.settings.config.first])


def check_files(settings: Settings) -> Checkpoint:
    """Check that data, model, packages and device are there.

    Raises:
        ConfigurationError: with everything that is missing, and what brings it.
    """
    config, found = settings.config, logger_problems(settings.config.logger)
    found += settings.suite.missing(corpora_of(settings))
    found += device_problems(config.trainer)
    checkpoint = None
    try:
        checkpoint = find_checkpoint(config.model, Path(config.paths.zoo_dir) / MODELS_FOLDER)
    except ModelError as error:
        found.append(str(error))
    else:
        tasks = {member: settings.suite.task(member) for member in settings.members}
        found += module_type(tasks[settings.members[0]]).model_problems(checkpoint)
        found += head_problems(checkpoint, tasks)
    if found or checkpoint is None:
        raise ConfigurationError(found)
    return checkpoint


def corpora_of(settings: Settings) -> list[str]:
    """All corpora that a job reads: members first."""
    return [*settings.members, *settings.suite.out_of_domain(settings.members)]


def prepare(settings: Settings, checkpoint: Checkpoint, folder: Path) -> Job:
    """Bring and read the data.

    Raises:
        DataError: for data that cannot be brought or read.
        ConfigurationError: for members with different label spaces.
    """
    suite, corpora = settings.suite, corpora_of(settings)
    suite.prepare(corpora)
    if different := label_differences(settings, checkpoint):
        raise ConfigurationError(different)
    data_fingerprint = combine_fingerprints(suite.fingerprint(corpus) for corpus in corpora)
    return Job(settings, checkpoint, evaluations_for(suite, settings.members), data_fingerprint, folder)


def finished_result(job: Job) -> Result | None:
    """The job's result, if it was computed before from the same configuration, data and pretrained weights."""
    if job.settings.config.force:
        return None
    found = find_result(
        job.folder,
        job.settings.resolved,
        job.data_fingerprint,
        job.checkpoint.fingerprint,
        merged_too=job.settings.config.save_merged,
    )
    if found is not None and counts_unknown(found, job.settings, job.evaluations):
        log.info("%s counts labels as predicted that were not trained, and is computed again", job.folder / RESULT_FILE)
        return None
    return found


def run_stage(job: Job) -> None:
    """Find or train members, and in the stage of statistics collect what the method needs; nothing is evaluated."""
    config, method = job.settings.config, job.settings.method
    find_or_train_members(job, config.stage_members)
    if config.stage == "train" or not isinstance(method, MergeMethod):
        return
    trainer, data = test_trainer(config.trainer), job.data_module()
    requests = requests_of(config.statistics, config.training, config.trainer)
    for member in job.entries:
        source = member_source(job, data, member)
        for request in requests:
            if request.kind in method.statistics and request.find(source.entry, source.data_fingerprint) is None:
                collect_and_log(job, trainer, source, request)


def collect_and_log(job: Job, trainer: pl.Trainer, source: MemberSource, request: StatisticsRequest) -> None:
    """Collect one kind of statistics of a member, with loggers of its own."""
    settings, folder = job.settings, job.folder / "statistics" / f"{source.name}-{request.kind}"
    name, config = f"{request.kind} statistics of {source.entry.name}", settings.config
    with open_loggers(config.logger, folder, name, "statistics", config.experiment, settings.resolved) as loggers:
        started = time.perf_counter()
        collect_for_entry(trainer, source.entry, request, source.load, source.batches, source.data_fingerprint)
        seconds = time.perf_counter() - started
        with open_statistics(source.entry, request, source.data_fingerprint) as file:
            log_statistics(loggers, file, seconds)


def compute(job: Job, overrides: list[str]) -> Result:
    """Find or train members, evaluate the method, and write the result."""
    settings, config = job.settings, job.settings.config
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    name = f"{'+'.join(settings.members)} {settings.method.name} seed {config.seed}"
    with job.timed("train"):
        find_or_train_members(job)
    job_type = "merge" if isinstance(settings.method, MergeMethod) else "evaluate"
    with open_loggers(config.logger, job.folder, name, job_type, config.experiment, settings.resolved) as loggers:
        pl.seed_everything(config.seed, workers=True, verbose=False)
        outcome = evaluator_of(settings.method)(job)
        result = result_of(job, outcome, overrides)
        log_result(loggers, result, {evaluation.name: evaluation.task.key_score for evaluation in job.evaluations})
    if config.save_merged:
        assert outcome.module is not None
        card = model_card(result, settings.resolved["method"], config.model.checkpoint)
        write_merged_model(outcome.module.model.cpu(), job.checkpoint.tokenizer(), card, job.folder / MERGED_FOLDER)
    result.write(job.folder)
    return result


def find_or_train_members(job: Job, names: list[str] | None = None) -> None:
    """Fill ``job.entries``: every member, or for joint training the joint model; or only those named."""
    settings, config = job.settings, job.settings.config
    for needed in trainings_of(settings):
        if names is not None and needed.name not in names:
            continue
        entry, trained = find_or_train(
            job.zoo,
            job.checkpoint,
            settings.suite,
            needed.corpora,
            needed.training,
            config.trainer,
            needed.seed,
            partial(open_loggers, config.logger, job.folder / "train" / "+".join(needed.corpora)),
        )
        log.info("%s %s", "trained" if trained else "found", entry.path)
        job.entries[needed.name] = entry


def result_of(job: Job, outcome: Outcome, overrides: list[str]) -> Result:
    """Everything that was measured, ready to be written."""
    settings, config = job.settings, job.settings.config
    device = first_device(config.trainer.accelerator)
    mean_in_domain = mean(outcome.scores["in_domain"].values())
    if unknown := unknown_labels(settings.suite, settings.members, job.evaluations):
        log.info("no member was trained on these labels, which are not predicted (F1 0): %s", unknown_text(unknown))
    assert mean_in_domain is not None
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
        notes=outcome.notes,
        configuration=settings.resolved,
        model_fingerprint=job.checkpoint.fingerprint,
        unknown_labels=unknown,
    )

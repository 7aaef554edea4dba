"""One job from configuration to ``result.json``: the whole story, top to bottom."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from regmean_lab.comparators import Multitask
from regmean_lab.environment import environment, peak_memory_bytes
from regmean_lab.evaluate import (
    flatten,
    key_scores,
    metrics_of,
)
from regmean_lab.evaluators import evaluator_of, predictions_of
from regmean_lab.job import JOINT, Job, Outcome
from regmean_lab.label_spaces import label_differences
from regmean_lab.loggers import logger_problems, open_loggers
from regmean_lab.merged_model import model_card, write_merged_model
from regmean_lab.models import Checkpoint, ModelError, find_checkpoint
from regmean_lab.modules import module_type
from regmean_lab.results import (
    RESULT_FILE,
    Result,
    ResultError,
    combine_fingerprints,
    fingerprint,
    mean,
    read_result,
)
from regmean_lab.schema import ConfigurationError, Settings, TrainingConfig, settings_of
from regmean_lab.suites.data_module import evaluations_for
from regmean_lab.training import find_or_train
from regmean_lab.zoo import ZooEntry

log = logging.getLogger(__name__)


def run(config: DictConfig, folder: Path, overrides: list[str]) -> tuple[Result, bool]:
    """Run one job, or find its finished result.

    Args:
        config: the composed configuration, without Hydra's own part.
        folder: where the job writes.
        overrides: the overrides that made the configuration, for the record.

    Returns:
        The result, and whether it was computed now.

    Raises:
        ConfigurationError: with everything that is wrong, before any work.
    """
    settings = settings_of(config)
    checkpoint = check_files(settings)
    if settings.config.order == "greedy":
        settings = replace(settings, members=greedy_order(prepare(settings, checkpoint, folder)))
    job = prepare(settings, checkpoint, folder)
    if (finished := finished_result(job)) is not None:
        log.info("found the finished result %s", folder / RESULT_FILE)
        return finished, False
    try:
        return compute(job, overrides), True
    finally:
        # Jobs of a sweep share a process: leave nothing behind for the next one.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def greedy_order(job: Job) -> tuple[str, ...]:
    """The members that are merged, by their own mean key score out of domain, best first.

    Members that are not in the zoo are trained, all of them, whatever number is merged.
    """
    outside = [number for number, evaluation in enumerate(job.evaluations) if evaluation.domain == "out"]
    evaluations = [job.evaluations[number] for number in outside]
    scores = {}
    for member in job.settings.members:
        job.entries[member] = _find_or_train(
            job, [member], job.settings.config.training, job.settings.member_seed(member)
        )
        metrics = metrics_of(evaluations, predictions_of(job, member, outside))
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
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        found.append("trainer.accelerator: no CUDA GPU is available here; use trainer=cpu or trainer=auto")
    checkpoint = None
    try:
        checkpoint = find_checkpoint(config.model, Path(config.paths.zoo_dir) / ".models")
    except ModelError as error:
        found.append(str(error))
    else:
        found += module_type(settings.suite.task(settings.members[0])).model_problems(checkpoint)
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
    path = job.folder / RESULT_FILE
    if job.settings.config.force or not path.exists():
        return None
    try:
        result = read_result(path)
    except ResultError as error:
        log.warning("%s", error)
        return None
    wanted = (fingerprint(job.settings.resolved), job.data_fingerprint, job.checkpoint.fingerprint)
    same = wanted == (result.fingerprint, result.data_fingerprint, result.model_fingerprint)
    saved = not job.settings.config.save_merged or (job.folder / "merged").is_dir()
    return result if same and saved else None


def compute(job: Job, overrides: list[str]) -> Result:
    """Find or train members, evaluate the method, and write the result."""
    settings, config = job.settings, job.settings.config
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    name = f"{'+'.join(settings.members)} {settings.method.name} seed {config.seed}"
    with job.timed("train"):
        find_or_train_members(job)
    with open_loggers(config.logger, job.folder, name, "merge", config.experiment, settings.resolved) as loggers:
        pl.seed_everything(config.seed, workers=True, verbose=False)
        outcome = evaluator_of(settings.method)(job)
        result = result_of(job, outcome, overrides)
        for logger in loggers:
            _log_result(logger, result)
    if config.save_merged:
        assert outcome.module is not None
        card = model_card(result, settings.resolved["method"], config.model.checkpoint)
        write_merged_model(outcome.module.model.cpu(), job.checkpoint.tokenizer(), card, job.folder / "merged")
    result.write(job.folder)
    return result


def find_or_train_members(job: Job) -> None:
    """Fill ``job.entries``: every member, or for joint training the joint model."""
    settings, config = job.settings, job.settings.config
    if isinstance(settings.method, Multitask):
        training = TrainingConfig(**vars(config.training))
        training.learning_rate = settings.method.learning_rate or training.learning_rate
        training.steps = settings.method.steps or training.steps
        job.entries[JOINT] = _find_or_train(job, list(settings.members), training, config.seed)
        return
    for member in settings.members:
        job.entries[member] = _find_or_train(job, [member], config.training, settings.member_seed(member))


def _find_or_train(job: Job, corpora: list[str], training: TrainingConfig, seed: int) -> ZooEntry:
    settings, config = job.settings, job.settings.config
    entry, trained = find_or_train(
        job.zoo,
        job.checkpoint,
        settings.suite,
        corpora,
        training,
        config.trainer,
        seed,
        partial(open_loggers, config.logger, job.folder / "train" / "+".join(corpora)),
    )
    log.info("%s %s", "trained" if trained else "found", entry.path)
    return entry


def result_of(job: Job, outcome: Outcome, overrides: list[str]) -> Result:
    """Everything that was measured, ready to be written."""
    settings, config = job.settings, job.settings.config
    device = torch.device("cuda", 0) if _uses_cuda(config.trainer.accelerator) else torch.device("cpu")
    mean_in_domain = mean(outcome.scores["in_domain"].values())
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
        configuration=settings.resolved,
        model_fingerprint=job.checkpoint.fingerprint,
    )


def _log_result(logger: Logger, result: Result) -> None:
    means = {"mean_in_domain": result.mean_in_domain, "mean_out_of_domain": result.mean_out_of_domain}
    logger.log_metrics(
        {
            **flatten(result.scores, "score"),
            **flatten(means, ""),
            **flatten(result.seconds, "seconds"),
            **flatten(result.metrics, "metric"),
        },
        step=0,
    )


def _uses_cuda(accelerator: str) -> bool:
    return torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")

"""One job from configuration to ``result.json``: the whole story, top to bottom."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from regmean_lab.callbacks.merge import MemberSource, MergeCallback
from regmean_lab.callbacks.statistics import requests_of
from regmean_lab.comparators import Ensemble, Individual, Multitask
from regmean_lab.environment import environment, peak_memory_bytes
from regmean_lab.evaluate import (
    Metrics,
    flatten,
    key_scores,
    load_module,
    mean_metrics,
    metrics_of,
    predict,
    test_trainer,
)
from regmean_lab.evaluation.ensemble import ensemble_predictions
from regmean_lab.evaluation.metrics import score_predictions
from regmean_lab.label_spaces import label_differences, same_labels
from regmean_lab.loggers import logger_problems, open_loggers
from regmean_lab.member_predictions import member_predictions
from regmean_lab.merged_model import model_card, write_merged_model
from regmean_lab.merging import MergeMethod
from regmean_lab.models import Checkpoint, ModelError, find_checkpoint, load_tokenizer
from regmean_lab.modules import Predictions, TaskModule, module_type
from regmean_lab.modules.multi_task import load_part
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
from regmean_lab.suites.data_module import CorpusDataModule, Evaluation, evaluations_for
from regmean_lab.training import find_or_train, multi_task
from regmean_lab.zoo import Zoo, ZooEntry

log = logging.getLogger(__name__)

JOINT = "joint"
"""What the model of joint training is called beside members."""


@dataclass
class Outcome:
    """What evaluating a method gave: scores by domain, all metrics, and the model, where there is a single one."""

    scores: dict[str, dict[str, float]]
    metrics: dict[str, Any]
    module: TaskModule | None = None
    diagnostics: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Job:
    """A job that is ready to run: settings checked, data and model found.

    Attributes:
        settings: the checked configuration.
        checkpoint: the pretrained model.
        evaluations: what is evaluated, in-domain corpora first.
        data_fingerprint: hash of all data.
        folder: where the job writes.
        seconds: time spent on each stage.
        entries: members from the zoo, filled as they are found or trained.
    """

    settings: Settings
    checkpoint: Checkpoint
    evaluations: list[Evaluation]
    data_fingerprint: str
    folder: Path
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("train", "statistics", "merge", "evaluate"), 0.0)
    )
    entries: dict[str, ZooEntry] = field(default_factory=dict)

    @property
    def zoo(self) -> Zoo:
        """The zoo that the configuration names."""
        return Zoo(Path(self.settings.config.paths.zoo_dir))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


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
        metrics = metrics_of(evaluations, _member_predictions(job, member, outside))
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
        outcome = _evaluator(settings.method)(job)
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


def evaluate_merge(job: Job) -> Outcome:
    """Merge the members inside ``Trainer.test`` and evaluate the merged model."""
    settings, config = job.settings, job.settings.config
    data = _data_module(job)
    multi_label = settings.suite.task(settings.members[0]).kind == "multi_label"
    sources = [
        MemberSource(
            member,
            job.entries[member],
            settings.suite.fingerprint(member),
            settings.suite.annotated_labels(member) if multi_label else None,
            partial(load_module, job.entries[member].path, settings.suite.task(member)),
            partial(data.statistics_dataloader, member),
        )
        for member in settings.members
    ]
    method: MergeMethod = settings.method
    requests = requests_of(config.statistics, config.training, config.trainer)
    callback = MergeCallback(sources, method, requests, own_heads=settings.suite.own_heads)
    trainer = test_trainer(config.trainer, [callback])
    loaders = data.test_dataloader()
    started = time.perf_counter()
    if not (method.is_partial or settings.suite.own_heads):
        module = sources[0].load()
        metrics = metrics_of(job.evaluations, predict(trainer, module, loaders))
        outcome = Outcome(key_scores(job.evaluations, metrics), dict(metrics), module)
    else:
        # With each member's own parameters in turn: on its own data, and the mean of all out of domain.
        by_member = {}
        for source in sources:
            chosen = _own_and_outside(job, source.name)
            predicted = predict(trainer, source.load(), [loaders[i] for i in chosen])
            by_member[source.name] = metrics_of([job.evaluations[i] for i in chosen], predicted)
        outcome = _own_scores(job, by_member)
    for stage, seconds in callback.seconds.items():
        job.seconds[stage] += seconds
    job.seconds["evaluate"] += time.perf_counter() - started - sum(callback.seconds.values())
    outcome.diagnostics = callback.diagnostics_table()
    return outcome


def evaluate_individual(job: Job) -> Outcome:
    """Evaluate each member on its own data and out of domain; with ``cross_evaluation`` on the others' data as well."""
    with job.timed("evaluate"):
        choose = _answerable if job.settings.config.cross_evaluation else _own_and_outside
        by_member = {}
        for member in job.settings.members:
            chosen = choose(job, member)
            by_member[member] = metrics_of(
                [job.evaluations[i] for i in chosen], _member_predictions(job, member, chosen)
            )
        return _own_scores(job, by_member)


def evaluate_ensemble(job: Job) -> Outcome:
    """Evaluate the members' combined predictions."""
    with job.timed("evaluate"):
        suite, vote = job.settings.suite, job.settings.method.vote
        members = job.settings.members
        by_member = [_member_predictions(job, member, list(range(len(job.evaluations)))) for member in members]
        metrics: Metrics = {}
        for number, evaluation in enumerate(job.evaluations):
            task, labels = evaluation.task, by_member[0][number].labels
            logits = [predicted[number].logits for predicted in by_member]
            partly = task.kind in ("multi_label", "answers")
            annotated = [suite.annotated_labels(member) for member in members] if partly else None
            together = ensemble_predictions(task, vote, logits, labels, annotated)
            metrics[evaluation.name] = score_predictions(task, together, labels)
        return Outcome(key_scores(job.evaluations, metrics), dict(metrics))


def evaluate_joint(job: Job) -> Outcome:
    """Evaluate the model that was trained on all members' data together."""
    with job.timed("evaluate"):
        path, trainer = job.entries[JOINT].path, test_trainer(job.settings.config.trainer)
        loaders = _data_module(job).test_dataloader()
        if multi_task(job.settings.suite, job.settings.members):
            by_member = {}
            for evaluation, loader in zip(job.evaluations, loaders, strict=True):
                part = load_part(path, evaluation.corpus, evaluation.task)
                by_member[evaluation.corpus] = metrics_of([evaluation], predict(trainer, part, [loader]))
            return _own_scores(job, by_member)
        module = load_module(path, job.evaluations[0].task)
        predicted = predict(trainer, module, loaders)
        metrics = metrics_of(job.evaluations, predicted)
        return Outcome(key_scores(job.evaluations, metrics), dict(metrics), module)


def _evaluator(method: Any) -> Callable[[Job], Outcome]:
    if isinstance(method, Individual):
        return evaluate_individual
    if isinstance(method, Ensemble):
        return evaluate_ensemble
    if isinstance(method, Multitask):
        return evaluate_joint
    return evaluate_merge


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


def _member_predictions(job: Job, member: str, chosen: list[int]) -> list[Predictions]:
    config, data = job.settings.config, _data_module(job)
    loaders = data.test_dataloader()
    return member_predictions(
        job.entries[member],
        job.settings.suite.task(member),
        [job.evaluations[i] for i in chosen],
        [loaders[i] for i in chosen],
        config.trainer,
        data.max_length,
    )


def _own_and_outside(job: Job, member: str) -> list[int]:
    return [
        number
        for number in _answerable(job, member)
        if job.evaluations[number].domain == "out" or job.evaluations[number].corpus == member
    ]


def _answerable(job: Job, member: str) -> list[int]:
    """Evaluations whose labels a member predicts."""
    task = job.settings.suite.task(member)
    return [number for number, evaluation in enumerate(job.evaluations) if same_labels(evaluation.task, task)]


def _own_scores(job: Job, by_member: dict[str, Metrics]) -> Outcome:
    """In domain each member's score on its own data; out of domain the mean over the members that were evaluated."""
    combined: Metrics = {}
    for evaluation in job.evaluations:
        if evaluation.domain == "in":
            combined[evaluation.name] = by_member[evaluation.corpus][evaluation.name]
        else:
            name = evaluation.name
            combined.update(mean_metrics([{name: part[name]} for part in by_member.values() if name in part]))
    return Outcome(key_scores(job.evaluations, combined), dict(by_member))


def _data_module(job: Job) -> CorpusDataModule:
    config = job.settings.config
    return CorpusDataModule(
        job.settings.suite,
        load_tokenizer(next(iter(job.entries.values())).path),
        batch_size=config.training.batch_size,
        eval_batch_size=config.training.eval_batch_size,
        max_length=config.training.max_length,
        seed=config.statistics.seed,
        evaluations=job.evaluations,
        num_workers=config.trainer.workers,
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

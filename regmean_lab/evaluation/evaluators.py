"""How each kind of method is evaluated: a merge, the members, their ensemble, the joint model."""

from __future__ import annotations

import logging
import time

from regmean_lab.config.baselines import Ensemble, GreedySoup, Individual, Multitask
from regmean_lab.evaluation.divergences import Divergences, measuring
from regmean_lab.evaluation.greedy_soup import evaluate_greedy_soup
from regmean_lab.evaluation.job import Job, Outcome
from regmean_lab.evaluation.label_spaces import annotated_by, answerable, known_labels, own_and_outside
from regmean_lab.evaluation.members import member_sources, merge_callback
from regmean_lab.evaluation.merged_predictions import merged_predictions
from regmean_lab.evaluation.predictions import member_predictions
from regmean_lab.evaluation.scores import Metrics, key_scores, load_module, mean_metrics, metrics_of, predict
from regmean_lab.merging import MergeMethod
from regmean_lab.metrics.ensemble import ensemble_predictions
from regmean_lab.metrics.metrics import score_predictions, without_unknown
from regmean_lab.modules import Predictions
from regmean_lab.modules.multi_task import load_part
from regmean_lab.results import mean
from regmean_lab.training.descriptions import JOINT, multi_task
from regmean_lab.training.trainers import test_trainer

log = logging.getLogger(__name__)


def evaluate(job: Job) -> Outcome:
    """Scores of a job's method: of a merge inside ``Trainer.test``, or of a baseline."""
    method = job.settings.method
    if isinstance(method, Individual):
        return evaluate_individual(job)
    if isinstance(method, Ensemble):
        return evaluate_ensemble(job)
    if isinstance(method, Multitask):
        return evaluate_joint(job)
    if isinstance(method, GreedySoup):
        return evaluate_greedy_soup(job)
    return evaluate_merge(job)


def evaluate_merge(job: Job) -> Outcome:
    """Merge the members inside ``Trainer.test``, evaluate the merged model, and compare it with the members."""
    settings, config = job.settings, job.settings.config
    suite = settings.suite
    method: MergeMethod = settings.method
    measured, data = measuring(job)
    sources = member_sources(job, data, settings.members)
    callback = merge_callback(job, sources, method)
    trainer = test_trainer(config.trainer, [callback])
    loaders = data.test_dataloader()[: len(job.evaluations)]
    dev_loaders = {} if measured is None else measured.dev_loaders
    started = time.perf_counter()
    merged = merged_predictions(job, trainer, sources, loaders, dev_loaders, method=method)
    if merged.module is not None:
        known = known_labels(suite, settings.members)
        metrics = metrics_of(job.evaluations, list(merged.evaluated[settings.members[0]].values()), known)
        outcome = Outcome(key_scores(job.evaluations, metrics), dict(metrics), merged.module)
    else:
        # With each member's own parameters in turn: on its own data, and the mean of all out of domain.
        by_member = {}
        for member, predicted in merged.evaluated.items():
            known = known_labels(suite, [member] if merged.keeps_labels[member] else settings.members)
            evaluations = [job.evaluations[number] for number in predicted]
            by_member[member] = metrics_of(evaluations, list(predicted.values()), known)
        outcome = _own_scores(job, by_member)
    for stage, seconds in callback.seconds.items():
        job.seconds[stage] += seconds
    if measured is not None:
        outcome.divergence = measured.of(merged, sources)
    job.seconds["evaluate"] += time.perf_counter() - started - sum(callback.seconds.values())
    outcome.diagnostics, outcome.notes = callback.diagnostics_table(), callback.notes
    outcome.choice, outcome.statistics_bytes = callback.choice, callback.statistics_bytes
    return outcome


def evaluate_individual(job: Job) -> Outcome:
    """Evaluate each member on its own data and out of domain; with ``cross_evaluation`` on the others' data as well."""
    with job.timed("evaluate"):
        choose = answerable if job.settings.config.cross_evaluation else own_and_outside
        by_member = {}
        for member in job.settings.members:
            chosen = choose(job.settings.suite, job.evaluations, member)
            known = known_labels(job.settings.suite, [member])
            by_member[member] = metrics_of(
                [job.evaluations[i] for i in chosen], predictions_of(job, member, chosen), known
            )
        return _own_scores(job, by_member)


def evaluate_ensemble(job: Job) -> Outcome:
    """Evaluate the members' combined predictions."""
    with job.timed("evaluate"):
        suite, method = job.settings.suite, job.settings.method
        members = job.settings.members
        known = known_labels(suite, members)
        by_member = [predictions_of(job, member, list(range(len(job.evaluations)))) for member in members]
        metrics: Metrics = {}
        for number, evaluation in enumerate(job.evaluations):
            task, labels = evaluation.task, by_member[0][number].labels
            logits = [predicted[number].logits for predicted in by_member]
            annotated = annotated_by(suite, members, task)
            together = ensemble_predictions(task, method.vote, logits, labels, annotated, method.ties)
            together = without_unknown(task, together, known)
            metrics[evaluation.name] = score_predictions(task, together, labels)
        outcome = Outcome(key_scores(job.evaluations, metrics), dict(metrics))
        if job.settings.config.measure_divergence and method.vote == "soft":  # votes are no distribution
            measured = Divergences(job)
            outcome.divergence = measured.of_ensemble(member_sources(job, measured.data, members))
        return outcome


def evaluate_joint(job: Job) -> Outcome:
    """Evaluate the model that was trained on all members' data together."""
    with job.timed("evaluate"):
        path, trainer = job.entries[JOINT].path, test_trainer(job.settings.config.trainer)
        loaders = job.data_module().test_dataloader()
        if multi_task(job.settings.suite, job.settings.members):
            by_member = {}
            for evaluation, loader in zip(job.evaluations, loaders, strict=True):
                part = load_part(path, evaluation.corpus, evaluation.task)
                by_member[evaluation.corpus] = metrics_of([evaluation], predict(trainer, part, [loader]))
            return _own_scores(job, by_member)
        module = load_module(path, job.evaluations[0].task)
        predicted = predict(trainer, module, loaders)
        metrics = metrics_of(job.evaluations, predicted, known_labels(job.settings.suite, job.settings.members))
        return Outcome(key_scores(job.evaluations, metrics), dict(metrics), module)


def best_out_of_domain_first(job: Job) -> list[str]:
    """The job's members by their own mean key score out of domain, best first."""
    outside = [number for number, evaluation in enumerate(job.evaluations) if evaluation.domain == "out"]
    evaluations = [job.evaluations[number] for number in outside]
    scores = {}
    for member in job.settings.members:
        known = known_labels(job.settings.suite, [member])
        metrics = metrics_of(evaluations, predictions_of(job, member, outside), known)
        own = mean(key_scores(evaluations, metrics)["out_of_domain"].values())
        assert own is not None  # the configuration was checked for out-of-domain corpora
        scores[member] = own
    order = sorted(scores, key=lambda member: -scores[member])
    log.info("order of members: %s", ", ".join(f"{member} ({scores[member]:.2f})" for member in order))
    return order


def predictions_of(job: Job, member: str, chosen: list[int]) -> list[Predictions]:
    """A member's predictions on some of the job's evaluations, by their numbers."""
    config, data = job.settings.config, job.data_module()
    loaders = data.test_dataloader()
    return member_predictions(
        job.entries[member],
        job.settings.suite.task(member),
        [job.evaluations[i] for i in chosen],
        [loaders[i] for i in chosen],
        config.trainer,
        data.max_length,
    )


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

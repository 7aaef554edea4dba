"""The greedy soup: the mean of those members that improve it on dev."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from regmean_lab.evaluation.divergences import measuring
from regmean_lab.evaluation.job import Job, Outcome
from regmean_lab.evaluation.label_spaces import known_labels
from regmean_lab.evaluation.members import member_sources, merge_callback
from regmean_lab.evaluation.merged_predictions import MergedPredictions
from regmean_lab.evaluation.scores import key_scores, metrics_of, predict
from regmean_lab.merging.simple import Simple
from regmean_lab.modules import Predictions, TaskModule
from regmean_lab.results import mean
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.evaluations import evaluations_for
from regmean_lab.training.trainers import test_trainer

log = logging.getLogger(__name__)


def evaluate_greedy_soup(job: Job) -> Outcome:
    """Choose the members of the soup on dev, and evaluate their mean.

    Members are tried in the order of their own scores, best first; one that does not lower the score of the mean of
    those chosen before stays. A score is the mean over the dev splits of all of the job's members.
    """
    with job.timed("evaluate"):
        on_dev = replace(job, evaluations=evaluations_for(job.settings.suite, job.settings.members, "dev"))
        alone = {member: _score(on_dev, [member]) for member in job.settings.members}
        first, *others = sorted(alone, key=lambda member: -alone[member])
        chosen, best = [first], alone[first]
        for member in others:
            score = _score(on_dev, [*chosen, member])
            log.info("%s with %s: %.2f on dev, without %.2f", "+".join(chosen), member, score, best)
            if score >= best:
                chosen, best = [*chosen, member], score
        measured, data = measuring(job)
        predicted, module = _predicted(job, chosen, data)
        number = len(job.evaluations)
        metrics = metrics_of(job.evaluations, predicted[:number], known_labels(job.settings.suite, chosen))
        tried = ", ".join(f"{member} ({alone[member]:.2f})" for member in (first, *others))
        note = f"greedy soup of {', '.join(chosen)}: {best:.2f} on dev; tried in this order, with own scores: {tried}"
        outcome = Outcome(key_scores(job.evaluations, metrics), dict(metrics), module, notes=[note])
        if measured is not None:
            members = job.settings.members
            every, dev = (
                dict(enumerate(predicted[:number])),
                dict(zip(measured.dev_loaders, predicted[number:], strict=True)),
            )
            soup = MergedPredictions(dict.fromkeys(members, every), dev, module, {})
            outcome.divergence = measured.of(soup, member_sources(job, data, members))
        return outcome


def _score(job: Job, members: Sequence[str]) -> float:
    """Mean key score of the mean of some members over the job's evaluations."""
    predicted, _ = _predicted(job, members, job.data_module())
    metrics = metrics_of(job.evaluations, predicted, known_labels(job.settings.suite, members))
    score = mean(metrics[evaluation.name][evaluation.task.key_score] for evaluation in job.evaluations)
    assert score is not None
    return score


def _predicted(job: Job, members: Sequence[str], data: CorpusDataModule) -> tuple[list[Predictions], TaskModule]:
    """What the mean of some members says of all test data of a data module, and the model."""
    sources = member_sources(job, data, members)
    callbacks = [merge_callback(job, sources, Simple())] if len(sources) > 1 else []
    module = sources[0].load()
    return predict(test_trainer(job.settings.config.trainer, callbacks), module, data.test_dataloader()), module

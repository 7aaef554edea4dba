"""What a merged model says of a job's data sets, with each member's own parameters where there are such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl

from regmean_lab.callbacks.merge import MemberSource
from regmean_lab.evaluation.job import Job
from regmean_lab.evaluation.label_spaces import own_and_outside
from regmean_lab.evaluation.scores import predict
from regmean_lab.merging import MergeMethod, layout_of
from regmean_lab.modules import Predictions, TaskModule
from regmean_lab.suites.data_module import Batches


@dataclass(frozen=True)
class MergedPredictions:
    """What a merged model says.

    Attributes:
        evaluated: by member, and by the number of the job's evaluation, what the model says with that member's own
            parameters: of its own data and of those out of domain; of a model without such parameters, the same for
            every member.
        dev: by member, what it says of that member's dev split.
        module: the model, where there is one for all.
        keeps_labels: by member, whether the output of each label is that member's own.
    """

    evaluated: Mapping[str, Mapping[int, Predictions]]
    dev: Mapping[str, Predictions]
    module: TaskModule | None
    keeps_labels: Mapping[str, bool]


def merged_predictions(
    job: Job,
    trainer: pl.Trainer,
    sources: Sequence[MemberSource],
    loaders: Sequence[Batches],
    dev_loaders: Mapping[str, Batches],
    *,
    method: MergeMethod,
) -> MergedPredictions:
    """Test the merged model.

    Args:
        job: says what is evaluated.
        trainer: merges, by its callback.
        sources: the members.
        loaders: of the job's evaluations.
        dev_loaders: of the members' dev splits; none where nothing is asked about them.
        method: says which parameters members keep of their own, as the suite does.
    """
    evaluated: dict[str, Mapping[int, Predictions]] = {}
    dev: dict[str, Predictions] = {}
    if method.is_one_model and not job.settings.suite.own_heads:
        module = sources[0].load()
        predicted = predict(trainer, module, [*loaders, *dev_loaders.values()])
        dev = dict(zip(dev_loaders, predicted[len(loaders) :], strict=True))
        every = dict(enumerate(predicted[: len(loaders)]))
        return MergedPredictions({source.name: every for source in sources}, dev, module, {})
    keeps_labels = {}
    for source in sources:
        chosen = own_and_outside(job.settings.suite, job.evaluations, source.name)
        own_dev = [dev_loaders[source.name]] if source.name in dev_loaders else []
        module = source.load()
        predicted = predict(trainer, module, [*(loaders[number] for number in chosen), *own_dev])
        evaluated[source.name] = dict(zip(chosen, predicted, strict=False))
        if own_dev:
            dev[source.name] = predicted[-1]
        keeps_labels[source.name] = _keeps_labels(method, module)
    return MergedPredictions(evaluated, dev, None, keeps_labels)


def _keeps_labels(method: MergeMethod, module: TaskModule) -> bool:
    """Whether the output of each label stays every member's own."""
    outputs = layout_of(module.model, len(module.task.labels)).label_outputs
    return bool(method.keep_top or method.kept(outputs))

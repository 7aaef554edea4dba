"""How far a merged model is from its members, beside the mean of their weights: divergence, agreement, gap closed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from regmean_lab.callbacks.merge import MemberSource
from regmean_lab.evaluation.job import Job
from regmean_lab.evaluation.label_spaces import annotated_by, known_labels, own_and_outside
from regmean_lab.evaluation.members import merge_callback
from regmean_lab.evaluation.merged_predictions import MergedPredictions, merged_predictions
from regmean_lab.evaluation.predictions import member_predictions, predictions_key
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.simple import Simple
from regmean_lab.metrics.divergence import Pair, agreement, best_temperature, divergence, gap_closed, mean_distribution
from regmean_lab.metrics.ensemble import ensemble_logits
from regmean_lab.modules import Predictions
from regmean_lab.results import mean
from regmean_lab.suites.data_module import Batches, CorpusDataModule
from regmean_lab.suites.evaluations import Evaluation, evaluations_for
from regmean_lab.training.trainers import test_trainer
from regmean_lab.utils.files import sha256_of, write_json

REFERENCES = ".references"
"""Folder of the zoo that keeps what the mean of some members' weights measures."""

Measured = dict[str, Any]


class Divergences:
    """Measures merges of a job against its members, and against the mean of their weights.

    Attributes:
        dev: the members' dev splits, on which temperatures are chosen.
        data: loaders of the job's evaluations, and after them of ``dev``.
        dev_loaders: by member, the loader of its dev split.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._task = job.settings.suite.task(job.settings.members[0])
        asked = self._task.kind != "text"
        inside = [evaluation for evaluation in job.evaluations if evaluation.domain == "in"]
        chooses = job.settings.evaluated_split == "dev"
        self.dev: list[Evaluation] = []
        if asked:
            self.dev = inside if chooses else evaluations_for(job.settings.suite, job.settings.members, "dev")
        self.data = job.data_module(self.dev)
        loaders = self.data.test_dataloader()[len(job.evaluations) :]
        self.dev_loaders: dict[str, Batches] = {
            evaluation.corpus: loader for evaluation, loader in zip(self.dev, loaders, strict=True)
        }

    def of(self, merged: MergedPredictions, sources: Sequence[MemberSource]) -> Measured | None:
        """Everything that is measured; None of models that write texts.

        Args:
            merged: what the merged model says.
            sources: the members.

        Returns:
            ``members``: by member, on its own data ``kl`` to the merged model (in nats; of a regression the mean
            squared difference), ``kl_tempered`` after one temperature, ``agreement`` (times 100), and the first two of
            the mean of weights; ``out_of_domain``: by corpus, ``kl_to_mean``, from the mean of the members'
            distributions; ``temperature`` of the merged model, and of the mean of weights; ``gap_closed`` and
            ``gap_closed_tempered`` on the members' data, and ``gap_closed_out_of_domain``, in percent (None where the
            mean leaves no gap), and the mean ``agreement``.
        """
        if not self.dev:
            return None
        own, simple = self._measure(merged), self._simple(sources, merged)
        members = {
            member: {**values, **{f"{name}_simple": simple["members"][member][name] for name in ("kl", "kl_tempered")}}
            for member, values in own["members"].items()
        }
        gaps = {}
        for gap, name in (("gap_closed", "kl"), ("gap_closed_tempered", "kl_tempered")):
            merge, reference = ([part["members"][member][name] for member in members] for part in (own, simple))
            gaps[gap] = gap_closed(merge, reference, [self.job.settings.suite.task(member) for member in members])
        merge, reference = (
            [values["kl_to_mean"] for values in part["out_of_domain"].values()] for part in (own, simple)
        )
        tasks = [one.task for one in self.job.evaluations if one.name in own["out_of_domain"]]
        gaps["gap_closed_out_of_domain"] = gap_closed(merge, reference, tasks) if merge else None
        agreements = [part["agreement"] for part in members.values() if part["agreement"] is not None]
        return {
            "members": members,
            "out_of_domain": {
                corpus: {**values, "kl_to_mean_simple": simple["out_of_domain"][corpus]["kl_to_mean"]}
                for corpus, values in own["out_of_domain"].items()
            },
            "temperature": own["temperature"],
            "temperature_simple": simple["temperature"],
            **gaps,
            "agreement": mean(agreements),
        }

    def _measure(self, merged: MergedPredictions) -> Measured:
        """Divergences of one merged model."""
        evaluations = self.job.evaluations
        own = {one.corpus: number for number, one in enumerate(evaluations) if one.domain == "in"}
        pairs = {
            member: self._pair(member, evaluations[own[member]], self._said[member][own[member]], said[own[member]])
            for member, said in merged.evaluated.items()
        }
        dev = {one.corpus: one for one in self.dev}
        temperature = best_temperature(
            [self._pair(member, dev[member], self._said_of_dev[member], merged.dev[member]) for member in pairs]
        )
        members = {
            member: {
                "kl": divergence(pair),
                "kl_tempered": divergence(pair, temperature),
                "agreement": agreement(pair),
            }
            for member, pair in pairs.items()
        }
        return {"members": members, "out_of_domain": self._outside(merged), "temperature": temperature}

    def _outside(self, merged: MergedPredictions) -> dict[str, dict[str, float]]:
        """By corpus that all members answer, the divergence from the mean of their distributions."""
        found, suite = {}, self.job.settings.suite
        annotated = annotated_by(suite, list(merged.evaluated), self._task)
        known = known_labels(suite, list(merged.evaluated))
        for number, evaluation in enumerate(self.job.evaluations):
            if evaluation.domain == "in" or not all(number in said for said in self._said.values()):
                continue
            members = [said[number].logits for said in self._said.values()]
            target = mean_distribution(evaluation.task, members, annotated)
            labels = next(iter(self._said.values()))[number].labels
            values = [
                divergence(Pair(evaluation.task, target, said[number].logits, labels, known))
                for said in merged.evaluated.values()
            ]
            found[evaluation.name] = {"kl_to_mean": sum(values) / len(values)}
        return found

    def _pair(self, member: str, evaluation: Evaluation, said: Predictions, merged: Predictions) -> Pair:
        suite = self.job.settings.suite
        known = suite.annotated_labels(member) if evaluation.task.kind == "multi_label" else None
        return Pair(evaluation.task, said.logits, merged.logits, said.labels, known)

    @cached_property
    def _said(self) -> dict[str, dict[int, Predictions]]:
        """By member, and by the number of the evaluation, what it says of its own data and of those out of domain."""
        loaders, found = self.data.test_dataloader(), {}
        for member in self.job.settings.members:
            chosen = own_and_outside(self.job.settings.suite, self.job.evaluations, member)
            predicted = self._predictions(
                member, [self.job.evaluations[number] for number in chosen], [loaders[number] for number in chosen]
            )
            found[member] = dict(zip(chosen, predicted, strict=True))
        return found

    @cached_property
    def _said_of_dev(self) -> dict[str, Predictions]:
        """By member, what it says of its dev split."""
        return {one.corpus: self._predictions(one.corpus, [one], [self.dev_loaders[one.corpus]])[0] for one in self.dev}

    def of_ensemble(self, sources: Sequence[MemberSource]) -> Measured | None:
        """The same of the members' soft ensemble; arguments and result as those of :meth:`of`."""
        if not self.dev:
            return None
        suite, members, evaluations = self.job.settings.suite, self.job.settings.members, self.job.evaluations
        loaders = self.data.test_dataloader()
        everywhere = [*evaluations, *self.dev]
        by_member = [self._predictions(member, everywhere, loaders) for member in members]
        annotated = annotated_by(suite, members, self._task)
        together = [
            replace(
                said[0], logits=ensemble_logits(one.task, [part.logits for part in said], said[0].labels, annotated)
            )
            for one, said in zip(everywhere, zip(*by_member, strict=True), strict=True)
        ]
        every = dict(enumerate(together[: len(evaluations)]))
        dev = dict(zip(self.dev_loaders, together[len(evaluations) :], strict=True))
        return self.of(MergedPredictions(dict.fromkeys(members, every), dev, None, {}), sources)

    def _predictions(
        self, member: str, evaluations: Sequence[Evaluation], loaders: Sequence[Batches]
    ) -> list[Predictions]:
        task, trainer = self.job.settings.suite.task(member), self.job.settings.config.trainer
        return member_predictions(self.job.entries[member], task, evaluations, loaders, trainer, self.data.max_length)

    def _simple(self, sources: Sequence[MemberSource], merged: MergedPredictions) -> Measured:
        """The same of the mean of the members' weights, with the same parameters kept apart: kept once it is known."""
        method, simple = self.job.settings.method, Simple()
        if isinstance(method, MergeMethod):
            simple = Simple(keep_layers=method.keep_layers, merge_layers=method.merge_layers, keep_top=method.keep_top)
        if method == simple:
            return self._measure(merged)
        path = self._reference(simple, sources)
        if (found := _read(path)) is None:
            trainer = test_trainer(self.job.settings.config.trainer, [merge_callback(self.job, sources, simple)])
            loaders = self.data.test_dataloader()[: len(self.job.evaluations)]
            found = self._measure(
                merged_predictions(self.job, trainer, sources, loaders, self.dev_loaders, method=simple)
            )
            write_json(path, found)
        return found

    def _reference(self, simple: Simple, sources: Sequence[MemberSource]) -> Path:
        """Where it is kept: under a hash of everything that determines it."""
        precision, length = self.job.settings.config.trainer.precision, self.data.max_length
        keys = [predictions_key(one, precision, length) for one in (*self.job.evaluations, *self.dev)]
        kept = repr((simple.keep_layers, simple.merge_layers, simple.keep_top, self.job.settings.suite.own_heads))
        names = [f"{source.name} {source.entry.name}" for source in sources]
        parts = [kept, *names, *keys]
        if len({one.task.kind == "regression" for one in self.dev}) > 1:
            parts.append("regressions have no temperature")  # files of earlier versions may hold that of the first
        digest = sha256_of(f"{part}\n" for part in parts)
        return Path(self.job.settings.config.paths.zoo_dir) / REFERENCES / f"simple-{digest[:16]}.json"


def measuring(job: Job) -> tuple[Divergences | None, CorpusDataModule]:
    """What measures a job's merges, None where that is not asked for, and the loaders of the job's data."""
    measured = Divergences(job) if job.settings.config.measure_divergence else None
    return measured, job.data_module() if measured is None else measured.data


def _read(path: Path) -> Measured | None:
    """What is kept; None where there is nothing that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(content, Mapping) and {"members", "out_of_domain", "temperature"} <= content.keys()
    return dict(content) if whole else None

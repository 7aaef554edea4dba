"""Estimates of time and disk: arithmetic of the model, at the speed at which this machine multiplies matrices.

Where members of a model were trained before, their times correct the estimate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regmean_lab.config.baselines import Comparator
from regmean_lab.config.groups import TrainingConfig
from regmean_lab.merging.auto import Auto, candidates_of
from regmean_lab.merging.distill import Distill
from regmean_lab.merging.refining import PSEUDO, RefiningMethod
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.models.shapes import bare_shape
from regmean_lab.statistics import KINDS, is_conv1d, linear_layers
from regmean_lab.suites import Suite
from regmean_lab.suites.base import DataError
from regmean_lab.suites.encoding import encoding_of
from regmean_lab.sweeps.plan import Plan, PlannedJob, PlannedMember, PlannedStatistics
from regmean_lab.zoo import Zoo

DEFAULT_EFFICIENCY = 0.4
"""Share of the matrix speed that training reaches, where nothing was measured yet."""

JOB_SECONDS = 0.5
"""Of each job besides its arithmetic: composing, reading, writing."""

SAMPLE = 64
"""Examples whose tokens are counted, to know a corpus's mean length."""

FLOAT_BYTES = 4
MATRIX_SIZE = 1024


@dataclass(frozen=True)
class Size:
    """Size of an architecture, without its head.

    Attributes:
        parameters: number of all parameters.
        multiplied: number of those in linear layers: each token is multiplied by all of them.
        inputs: of each linear layer, the number of its inputs; that some share their input, and so their Gram matrix,
            is not taken into account.
        outputs: of each linear layer, the number of its outputs.
    """

    parameters: int
    multiplied: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def input_entries(self) -> int:
        """Number of entries of matrices [in, in] of all linear layers."""
        return sum(width * width for width in self.inputs)

    @property
    def output_entries(self) -> int:
        """Number of entries of matrices [out, out] of all linear layers."""
        return sum(width * width for width in self.outputs)


@dataclass(frozen=True)
class Cost:
    """What a part of a plan costs.

    Attributes:
        seconds: on this machine, one job after the other; None where that is unknown.
        bytes: on disk; None where that is unknown.
    """

    seconds: float | None
    bytes: int | None


UNKNOWN = Cost(None, None)


@dataclass(frozen=True)
class Estimate:
    """Costs of the parts of a plan: training members, collecting statistics, merging and evaluating."""

    training: Cost
    statistics: Cost
    evaluation: Cost

    @property
    def total(self) -> Cost:
        """All parts together; unknown as soon as one of them is."""
        return total_cost([self.training, self.statistics, self.evaluation])


def estimate(plan: Plan) -> Estimate:
    """What the unfinished part of a plan will cost."""
    costs = _Costs(plan)
    trained = [costs.training(member) for member in plan.to_train]
    collected = [costs.statistics(part) for part in plan.to_collect]
    evaluated = [costs.evaluation(job) for job in plan.unfinished] * plan.trials
    if plan.trials > 1:  # of each search, the best once on test
        evaluated += [costs.evaluation(job, on="test") for job in plan.unfinished]
    return Estimate(
        training=total_cost(trained * (plan.trials if "train" in plan.repeated else 1)),
        statistics=total_cost(collected * (plan.trials if plan.repeated else 1)),
        evaluation=total_cost(evaluated),
    )


def total_cost(costs: Iterable[Cost]) -> Cost:
    """The sum; unknown where one of them is."""
    seconds: float | None = 0.0
    size: int | None = 0
    for cost in costs:
        seconds = None if seconds is None or cost.seconds is None else seconds + cost.seconds
        size = None if size is None or cost.bytes is None else size + cost.bytes
    return Cost(seconds, size)


def size_of(checkpoint: Checkpoint) -> Size:
    """Size of a model, from its configuration alone."""
    model = bare_shape(checkpoint)
    weights = dict(model.named_parameters())
    layers = linear_layers(model)
    shapes = [weights[f"{name}.weight"].shape[:: -1 if is_conv1d(layer) else 1] for name, layer in layers.items()]
    return Size(
        parameters=sum(parameter.numel() for parameter in weights.values()),
        multiplied=sum(weights[f"{name}.weight"].numel() for name in layers),
        inputs=tuple(inputs for _, inputs in shapes),
        outputs=tuple(outputs for outputs, _ in shapes),
    )


def matrix_speed(device: torch.device) -> float:
    """Floating-point operations a second of a product of two square float32 matrices: the best of a few."""
    left, right = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE, device=device)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float((left @ right)[0, 0])  # waits for an accelerator
        best = min(best, time.perf_counter() - started)
    return 2 * MATRIX_SIZE**3 / best


class _Costs:
    """Costs of single parts; sizes, lengths and speeds are looked up once."""

    def __init__(self, plan: Plan) -> None:
        accelerators = {job.settings.config.trainer.accelerator for job in plan.jobs}
        accelerated = torch.cuda.is_available() and accelerators != {"cpu"}
        self._speed = matrix_speed(torch.device("cuda" if accelerated else "cpu"))
        self._sizes: dict[str, Size] = {}
        self._tokenizers: dict[str, Any] = {}
        self._loads: dict[tuple[int, str, str, str], tuple[int, float] | None] = {}
        self._slowness: dict[tuple[str, str], float] = {}

    def training(self, member: PlannedMember) -> Cost:
        """Six operations a token and parameter: two of the forward pass, four of the backward pass."""
        if member.checkpoint is None:
            return UNKNOWN
        size, training = self._size(member.checkpoint), member.training.training
        loads = [self._load(member, corpus, "train") for corpus in member.training.corpora]
        known = [load for load in loads if load is not None]
        disk = FLOAT_BYTES * size.parameters
        if member.given is not None:
            return Cost(0.0, disk)
        if len(known) < len(loads):
            return Cost(None, disk)
        tokens = sum(count * length for count, length in known) * _epochs(training, sum(count for count, _ in known))
        return Cost(self._seconds(member, 6 * size.multiplied * tokens), disk)

    def statistics(self, part: PlannedStatistics) -> Cost:
        """A forward pass over all tokens, and what the kind does beside it."""
        member = part.member
        if member.checkpoint is None:
            return UNKNOWN
        size, corpus = self._size(member.checkpoint), member.training.corpora[0]
        kind = KINDS[part.kind]
        disk = FLOAT_BYTES * kind.numbers(size, getattr(part.job.settings.config.statistics, part.kind))
        load = self._load(member, corpus, "train")
        if load is None:
            return Cost(None, disk)
        tokens = min(load[0], part.examples or load[0]) * load[1]
        labels = max(len(member.settings.suite.task(corpus).labels), 1)
        operations = 2 * size.multiplied * kind.runs_model + kind.operations(size, labels)
        return Cost(self._seconds(member, operations * tokens), disk)

    def evaluation(self, job: PlannedJob, on: str | None = None) -> Cost:
        """A forward pass over all that the job evaluates, or would on another split."""
        member = job.members[0]
        if member.checkpoint is None:
            return Cost(None, 0)
        split = on or job.settings.evaluated_split
        corpora = [(corpus, split) for corpus in job.settings.members]
        if split == "test":
            corpora += [(corpus, "out") for corpus in job.settings.suite.out_of_domain(job.settings.members)]
        tokens = 0.0
        for corpus, split in corpora:
            load = self._load(member, corpus, split)
            if load is None:
                return Cost(None, 0)
            tokens += load[0] * load[1]
        operations = 2 * self._size(member.checkpoint).multiplied * tokens
        if isinstance(job.settings.method, Comparator):
            operations /= 2  # jobs share the members' predictions
        elif isinstance(job.settings.method, RefiningMethod):
            reading = self._reading(job, job.settings.method)
            if reading is None:
                return Cost(None, 0)
            operations += reading
        elif isinstance(job.settings.method, Distill | Auto):
            learning = self._learning(job, job.settings.method)
            if learning is None:
                return Cost(None, 0)
            operations += learning
        return Cost(self._seconds(member, operations) + JOB_SECONDS, 0)

    def _learning(self, job: PlannedJob, method: Distill | Auto) -> float | None:
        """Operations of a distillation, or of fitting and judging candidates; None where a member has no text yet.

        A text that is trained on costs eight operations a token and parameter (the member's forward pass, and forward
        and backward passes of the merge), one that merge and member only read costs four. Pseudo-text is taken to be
        as long as the member's own.
        """
        if (loads := self._texts(job)) is None:
            return None
        operations = 0.0
        for (_, tokens), size in loads:
            if isinstance(method, Distill):
                measured = method.held_out * (1 + method.steps // method.evaluate_every)
                texts = 8.0 * method.steps * method.batch_size + 4.0 * measured
            else:
                texts = 4.0 * method.held_out * len(candidates_of(method, len(job.members))) * method.by_text
            operations += texts * size.multiplied * tokens
        if isinstance(method, Auto):
            fits = {repr(one.method): one.method for one in candidates_of(method, len(job.members))}
            readings = [self._reading(job, fit) for fit in fits.values() if isinstance(fit, RefiningMethod)]
            operations += sum(reading for reading in readings if reading is not None)
        return operations

    def _texts(self, job: PlannedJob) -> list[tuple[tuple[int, float], Size]] | None:
        """Of each member, how many training examples of how many tokens there are, and its size; None without data."""
        found = []
        for member in job.members:
            assert member.checkpoint is not None  # all members start from the same one, which was looked at
            load = self._load(member, member.training.corpora[0], "train")
            if load is None:
                return None
            found.append((load, self._size(member.checkpoint)))
        return found

    def _reading(self, job: PlannedJob, method: RefiningMethod) -> float | None:
        """Operations of a merge that reads members' text; None where there is none yet.

        A forward pass and half of each product of inputs; where members read their text too, their forward pass, the
        outputs of both once more, and the product of inputs with what they differ by.
        """
        if (loads := self._texts(job)) is None:
            return None
        operations = 0.0
        for (texts, tokens), size in loads:
            passes = 5 if method.own_passes else 1
            operations += (2 * size.multiplied * passes + size.input_entries) * self._read(method, texts) * tokens
        return operations

    @staticmethod
    def _read(method: RefiningMethod, there: int) -> int:
        """Number of examples that a method reads; of pseudo-text, taken to be as long, there is no end."""
        return method.text_examples if method.text == PSEUDO else min(there, method.text_examples)

    def _size(self, checkpoint: Checkpoint) -> Size:
        if checkpoint.fingerprint not in self._sizes:
            self._sizes[checkpoint.fingerprint] = size_of(checkpoint)
        return self._sizes[checkpoint.fingerprint]

    def _load(self, member: PlannedMember, corpus: str, split: str) -> tuple[int, float] | None:
        """Number of examples and mean number of tokens of a corpus; None where the data are not there yet."""
        suite, checkpoint = member.settings.suite, member.checkpoint
        assert checkpoint is not None
        key = (id(suite), corpus, split, checkpoint.fingerprint)
        if key not in self._loads:
            if checkpoint.fingerprint not in self._tokenizers:
                self._tokenizers[checkpoint.fingerprint] = checkpoint.counting_tokenizer()
            tokenizer, longest = self._tokenizers[checkpoint.fingerprint], member.training.training.max_length
            try:
                examples = _examples(suite, corpus, split)
                encode, _ = encoding_of(suite.task(corpus))
                lengths = [encoded.length for encoded in encode(examples[:SAMPLE], tokenizer, longest)]
                self._loads[key] = (len(examples), statistics.fmean(lengths)) if lengths else None
            except (DataError, OSError):
                self._loads[key] = None
        return self._loads[key]

    def _seconds(self, member: PlannedMember, operations: float) -> float:
        assert member.checkpoint is not None
        key = (member.checkpoint.fingerprint, member.settings.config.paths.zoo_dir)
        if key not in self._slowness:
            self._slowness[key] = self._measured_slowness(member)
        return operations / self._speed * self._slowness[key]

    def _measured_slowness(self, member: PlannedMember) -> float:
        """How many times longer the training of this model's members took than their arithmetic; the median."""
        checkpoint = member.checkpoint
        assert checkpoint is not None
        found = []
        for entry in Zoo(Path(member.settings.config.paths.zoo_dir)).entries():
            record, corpus = entry.training, entry.description.get("corpus", "")
            same_model = entry.description.get("model", {}).get("fingerprint") == checkpoint.fingerprint
            if not same_model or corpus not in member.settings.suite.candidates:
                continue
            load = self._load(member, corpus, "train")
            sentences = record.get("steps", 0) * entry.description.get("training", {}).get("batch_size", 0)
            if load is not None and sentences and record.get("seconds"):
                operations = 6 * self._size(checkpoint).multiplied * sentences * load[1]
                found.append(record["seconds"] * self._speed / operations)
        return statistics.median(found) if found else 1 / DEFAULT_EFFICIENCY


def _examples(suite: Suite, corpus: str, split: str) -> list[object]:
    if split == "out":
        return suite.out_of_domain_examples(corpus)
    return suite.examples(corpus, "train" if split == "train" else "dev" if split == "dev" else "test")


def _epochs(training: TrainingConfig, examples: int) -> float:
    """Passes over the training data."""
    return training.epochs if training.steps is None else training.steps * training.batch_size / max(examples, 1)

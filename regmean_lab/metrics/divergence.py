"""How far a model's predictions are from a member's: Kullback–Leibler divergence, agreement, and gap closed.

A score such as macro-F1 on some hundred examples has a standard error of more than a point; the divergence from a
member on the same examples tells methods apart that such a score cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from regmean_lab.metrics.metrics import predictions
from regmean_lab.suites.base import IGNORED, Task

TEMPERATURES = (1 / 20, 20.0)
"""Between these the best temperature is looked for."""


@dataclass(frozen=True)
class Pair:
    """What two models say of the same examples.

    Attributes:
        task: what is predicted.
        member: logits of a member, shape [examples, labels]; of tokens [examples, tokens, labels].
        other: logits of the other model, of the same shape.
        labels: the right labels, which say what counts: of tokens those that have one.
        known: for ``multi_label``, for each label whether the member's training data annotates it; None: all.
    """

    task: Task
    member: Tensor
    other: Tensor
    labels: Tensor
    known: Sequence[bool] | None = None


def divergence(pair: Pair, temperature: float = 1.0) -> float:
    """KL(member ‖ other) in nats, mean over examples (of tagged words, over words), computed in float64.

    Of several labels it is the sum over those that the member knows, each a yes or no; of a regression the mean squared
    difference, which is twice the divergence of normal distributions of variance 1.

    Args:
        pair: what both say.
        temperature: by which the other model's logits are divided first; without effect on a regression.

    Raises:
        ValueError: for generated texts, whose distributions are not kept.
    """
    member, other = _rows(pair)
    if pair.task.kind == "regression":
        return float((member - other).square().mean())
    other = other / temperature
    if pair.task.kind == "multi_label":
        yes, no = functional.logsigmoid(member), functional.logsigmoid(-member)
        each = yes.exp() * (yes - functional.logsigmoid(other)) + no.exp() * (no - functional.logsigmoid(-other))
        return float(each.sum(-1).mean())
    log_member = member.log_softmax(-1)
    return float(functional.kl_div(other.log_softmax(-1), log_member, log_target=True, reduction="none").sum(-1).mean())


def agreement(pair: Pair) -> float | None:
    """Share of equal predictions, times 100: of examples, of words, or of labels that the member knows.

    None of a regression.
    """
    if pair.task.kind == "regression":
        return None
    member, other = _rows(pair)
    return 100 * float((predictions(pair.task, member) == predictions(pair.task, other)).double().mean())


def best_temperature(pairs: Sequence[Pair]) -> float:
    """The temperature of the other model that makes the mean divergence smallest; 1 where all are regressions.

    Regressions among others are left out: a temperature changes nothing of them.

    Args:
        pairs: of each member, on data that are not the test data.
    """
    tempered = [pair for pair in pairs if pair.task.kind != "regression"]
    if not tempered:
        return 1.0

    def mean(logarithm: float) -> float:
        return sum(divergence(pair, math.exp(logarithm)) for pair in tempered) / len(tempered)

    bounds = tuple(map(math.log, TEMPERATURES))
    return math.exp(float(minimize_scalar(mean, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x))


ROUNDING = 1e-12
"""A divergence up to this is none, in nats or squared: float32's rounding of logits gives about as much."""


def gap_closed(
    divergences: Sequence[float], of_simple: Sequence[float], tasks: Sequence[Task] | None = None
) -> float | None:
    """How much of the gap that the mean of weights leaves is closed, in percent: 0 of the mean, 100 of the members.

    It is 100 (1 − KL(member ‖ merged) / KL(member ‖ Simple)), both means over members. Where some are regressions and
    some are not, it is the mean over members of each one's own share: nats and squared differences have no sum, and
    the unit of the regression would decide.

    Args:
        divergences: of the merged model, by member.
        of_simple: of the mean of weights, by member.
        tasks: by member, what is predicted; None where all are alike.

    Returns:
        None where the mean of weights leaves no gap above rounding; of unlike members, where it leaves one none.
    """
    if tasks is not None and len({task.kind == "regression" for task in tasks}) > 1:
        each = [gap_closed([own], [simple]) for own, simple in zip(divergences, of_simple, strict=True)]
        known = [share for share in each if share is not None]
        return sum(known) / len(known) if len(known) == len(each) else None
    whole = sum(of_simple) / len(of_simple)
    return 100 * (1 - sum(divergences) / len(divergences) / whole) if whole > ROUNDING else None


def mean_distribution(
    task: Task, members: Sequence[Tensor], annotated: Sequence[Sequence[bool]] | None = None
) -> Tensor:
    """Logits of the mean of several models' distributions (of regressions, the mean), float64, shaped as each's.

    Args:
        task: what is predicted.
        members: logits of each model.
        annotated: for ``multi_label``, for each model and label whether its training data annotates the label: a
            label's mean is over those models (over all, where there is none); None: all.
    """
    stacked = torch.stack([logits.double() for logits in members])
    if task.kind == "regression":
        return stacked.mean(0)
    if task.kind == "multi_label":
        weights = torch.ones(len(stacked), stacked.shape[-1], dtype=torch.float64)
        if annotated is not None:
            weights = torch.tensor([list(row) for row in annotated], dtype=torch.float64)
            weights[:, weights.sum(0) == 0] = 1
        return ((stacked.sigmoid() * weights[:, None]).sum(0) / weights.sum(0)).logit(eps=1e-12)
    return stacked.softmax(-1).mean(0).clamp(min=1e-300).log()


def _rows(pair: Pair) -> tuple[Tensor, Tensor]:
    """Both models' logits of what counts, float64."""
    if pair.task.kind == "text":
        raise ValueError("texts have no divergence: of their tokens only the right ones' probabilities are kept")
    member, other = pair.member.double(), pair.other.double()
    if pair.task.kind == "token_labels":
        counted = pair.labels != IGNORED
        return member[counted], other[counted]
    if pair.task.kind == "multi_label" and pair.known is not None:
        known = torch.tensor(list(pair.known))
        return member[:, known], other[:, known]
    return member, other

"""Ensembles: several models' logits of the same examples made one prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regmean_lab.evaluation.metrics import predictions
from regmean_lab.suites.base import Task


def ensemble_predictions(
    task: Task,
    vote: str,
    logits: Sequence[Tensor],
    labels: Tensor,
    annotated: Sequence[Sequence[bool]] | None = None,
) -> Tensor:
    """What several models predict together.

    Args:
        task: what is predicted.
        vote: ``soft``: the mean of their logits; ``majority``: what most of them predict.
        logits: one tensor a member.
        labels: the examples' labels; for ``answers`` they tell which label each example asks about.
        annotated: for ``multi_label`` and ``answers``, for each member and label whether the member's training data
            annotates the label; members that do not know a label have no voice in it (all have, if none does).

    Returns:
        Predictions as :func:`regmean_lab.evaluation.metrics.predictions` gives them. Answers that have as many votes
        for yes as for no are no.
    """
    if task.kind != "answers":
        if vote == "soft":
            return predictions(task, average_logits(logits, annotated))
        return majority_vote(task, [predictions(task, part) for part in logits], annotated)
    asked = labels[:, 1].tolist()
    known = None if annotated is None else [[row[label] for label in asked] for row in annotated]
    if vote == "soft":
        # Members differ in what they know from example to example, as they otherwise do from label to label.
        return predictions(task, average_logits([part.T for part in logits], known).T)
    votes = [predictions(task, part).float().unsqueeze(0) for part in logits]
    return (average_logits(votes, known).squeeze(0) > 0.5).long()


def average_logits(logits: Sequence[Tensor], annotated: Sequence[Sequence[bool]] | None = None) -> Tensor:
    """Soft ensemble: the mean of the members' logits.

    Args:
        logits: one tensor a member, each of shape [examples, labels].
        annotated: for each member and label, whether the member's training data annotates the label; a label's logit is
            averaged over those members only (over all of them, if none does).

    Returns:
        Mean logits, shape [examples, labels].
    """
    stacked = torch.stack(list(logits))
    if annotated is None:
        return stacked.mean(0)
    weights = torch.tensor([list(row) for row in annotated], dtype=stacked.dtype, device=stacked.device)
    weights[:, weights.sum(0) == 0] = 1
    return (stacked * weights[:, None]).sum(0) / weights.sum(0)


def majority_vote(task: Task, predicted: Sequence[Tensor], annotated: Sequence[Sequence[bool]] | None = None) -> Tensor:
    """Hard ensemble: what most members predict.

    Args:
        task: what is predicted.
        predicted: one tensor a member, as :func:`regmean_lab.evaluation.metrics.predictions` gives them.
        annotated: as in :func:`average_logits`; only for ``multi_label``.

    Returns:
        For ``multi_label``, 1 where more than half of the members that know the label predict it; for ``single_label``
        and ``token_labels`` the label with most votes, and of several the one with the lowest id; for ``regression``
        the mean.
    """
    stacked = torch.stack(list(predicted))
    if task.kind in ("single_label", "token_labels"):
        votes = torch.nn.functional.one_hot(stacked, len(task.labels)).sum(0)
        return votes.argmax(-1)
    if task.kind == "regression":
        return stacked.mean(0)
    return (average_logits([tensor.float() for tensor in stacked], annotated) > 0.5).long()

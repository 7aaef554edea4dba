"""Ensembles: combines several models' logits on the same examples into one prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regmean_lab.metrics.metrics import predictions
from regmean_lab.suites.base import Task


def ensemble_predictions(
    task: Task,
    vote: str,
    logits: Sequence[Tensor],
    labels: Tensor,
    annotated: Sequence[Sequence[bool]] | None = None,
    ties: str = "lowest",
) -> Tensor:
    """What several models predict together.

    Args:
        task: what is predicted.
        vote: ``soft``: the mean of their logits; ``majority``: what most of them predict.
        logits: one tensor a member.
        labels: the examples' labels; for ``answers`` they tell which label each example asks about.
        annotated: for ``multi_label`` and ``answers``, for each member and label whether the member's training data
            annotates the label; members that do not know a label have no voice in it. One that none of them knows has
            the logit 0, and no votes.
        ties: of predictions with equally many votes, that with the ``lowest`` id (no, of yes and no), or that of the
            ``first_member`` who made one of them.

    Returns:
        Predictions as :func:`regmean_lab.metrics.metrics.predictions` gives them.
    """
    if vote == "soft":
        return predictions(task, ensemble_logits(task, logits, labels, annotated))
    if task.kind != "answers":
        return majority_vote(task, [predictions(task, part) for part in logits], annotated, ties)
    known = _known_by_example(labels, annotated)
    return _yes_or_no([predictions(task, part).unsqueeze(0) for part in logits], known, ties).squeeze(0)


def ensemble_logits(
    task: Task, logits: Sequence[Tensor], labels: Tensor, annotated: Sequence[Sequence[bool]] | None = None
) -> Tensor:
    """Logits of the soft ensemble, shaped as each member's; arguments as in :func:`ensemble_predictions`."""
    if task.kind != "answers":
        return average_logits(logits, annotated)
    # Members differ in what they know from example to example, as they otherwise do from label to label.
    return average_logits([part.T for part in logits], _known_by_example(labels, annotated)).T


def _known_by_example(labels: Tensor, annotated: Sequence[Sequence[bool]] | None) -> list[list[bool]] | None:
    """For each member and example, whether the member knows the label that the example asks about."""
    asked = labels[:, 1].tolist()
    return None if annotated is None else [[row[label] for label in asked] for row in annotated]


def average_logits(logits: Sequence[Tensor], annotated: Sequence[Sequence[bool]] | None = None) -> Tensor:
    """Soft ensemble: the mean of the members' logits.

    Args:
        logits: one tensor a member, each of shape [examples, labels].
        annotated: for each member and label, whether the member's training data annotates the label; a label's logit is
            averaged over those members only, and is 0 if none of them knows it.

    Returns:
        Mean logits, shape [examples, labels].
    """
    stacked = torch.stack(list(logits))
    if annotated is None:
        return stacked.mean(0)
    weights = torch.tensor([list(row) for row in annotated], dtype=stacked.dtype, device=stacked.device)
    return (stacked * weights[:, None]).sum(0) / weights.sum(0).clamp(min=1)


def majority_vote(
    task: Task, predicted: Sequence[Tensor], annotated: Sequence[Sequence[bool]] | None = None, ties: str = "lowest"
) -> Tensor:
    """Hard ensemble: what most members predict.

    Args:
        task: what is predicted.
        predicted: one tensor a member, as :func:`regmean_lab.metrics.metrics.predictions` gives them.
        annotated: as in :func:`average_logits`; only for ``multi_label``.
        ties: as in :func:`ensemble_predictions`.

    Returns:
        For ``multi_label``, what most of the members predict that know the label (0 if there are none); for
        ``single_label`` and ``token_labels`` the label with most votes; for ``regression`` the mean.
    """
    stacked = torch.stack(list(predicted))
    if task.kind == "regression":
        return stacked.mean(0)
    if task.kind not in ("single_label", "token_labels"):
        return _yes_or_no(predicted, annotated, ties)
    votes = torch.nn.functional.one_hot(stacked, len(task.labels)).sum(0)
    if ties == "lowest":
        return votes.argmax(-1)
    agreeing = torch.stack([votes.gather(-1, own.unsqueeze(-1)).squeeze(-1) for own in stacked])
    return stacked.gather(0, agreeing.argmax(0, keepdim=True)).squeeze(0)  # argmax is the first of several


def _yes_or_no(predicted: Sequence[Tensor], annotated: Sequence[Sequence[bool]] | None, ties: str) -> Tensor:
    """1 where most of the members that know the label predict it; shape [examples, labels], as each prediction's."""
    stacked = torch.stack(list(predicted))
    share = average_logits(list(stacked.float()), annotated)
    decided = (share > 0.5).long()
    if ties == "lowest":
        return decided
    known = torch.ones_like(stacked[:, 0]) if annotated is None else torch.tensor([list(row) for row in annotated])
    first = known.long().to(stacked.device).argmax(0).expand_as(stacked[:1])
    return torch.where(share == 0.5, stacked.gather(0, first).squeeze(0), decided)

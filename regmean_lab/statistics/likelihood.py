"""Likelihoods of labels given a model's outputs, as far as the Fisher information needs them.

The diagonal of the Fisher information of one example ``x`` is ``E_y[(∂ log p(y|x) / ∂θ)²]``. With ``J`` the Jacobian of
the outputs ``z`` with respect to the parameters, ``∂ log p(y|x) / ∂θ = Jᵀ ∂ log p(y|x) / ∂z``. Hence, for any columns
``s_k`` with ``Σ_k s_k s_kᵀ = E_y[(∂ log p / ∂z) (∂ log p / ∂z)ᵀ]``, the diagonal is ``Σ_k (Jᵀ s_k)²``: the expectation
costs as many vector-Jacobian products as there are columns, and no sampling. This module gives the columns.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from regmean_lab.utils.labels import IGNORED as IGNORED

from .errors import StatisticsError
from .settings import LabelSource

Likelihood: TypeAlias = Literal["categorical", "bernoulli", "gaussian", "squared_error"]
"""The distribution of the labels.

- categorical: one label of C; logits ``[batch, C]`` or, a label a token, ``[batch, tokens, C]``; labels are class
  indices of shape ``logits.shape[:-1]``.
- bernoulli: any number of L labels; logits and labels ``[batch, L]``, labels 0 or 1.
- gaussian: real values with variance 1; outputs and labels ``[batch]`` or ``[batch, values]``.
- squared_error: the same with variance 1/2, whose negative log-likelihood is the squared error (and a constant).
"""

VARIANCES: dict[str, float] = {"gaussian": 1.0, "squared_error": 0.5}
"""Of likelihoods of real values, the variance."""


def output_factors(logits: Tensor, labels: Tensor | None, kind: Likelihood, labels_from: LabelSource) -> Tensor:
    """Columns ``s_k`` whose squared vector-Jacobian products add up to each example's Fisher diagonal.

    Args:
        logits: the model's outputs, see `Likelihood` for the shapes.
        labels: the labels. Needed for ``labels_from="true"``; otherwise only which of them are `IGNORED` is used,
            and None means that all are annotated.
        kind: the distribution of the labels.
        labels_from: where the labels come from.

    Returns:
        ``[K, *logits.shape]``, float32 or wider, without gradient. "true" and "pseudo" have one column, the gradient
        of the log-likelihood with respect to the logits; "expectation" has C - 1 (categorical), L (Bernoulli) or one
        for each value (Gaussian).

    Raises:
        StatisticsError: for labels that do not fit the logits, and for combinations without a sound answer: the
            expectation over token labels, and pseudo-labels of a regression.
    """
    _check(logits, labels, kind, labels_from)
    values = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    if labels_from == "expectation":
        factors = _expectation(values, kind)
        return factors * _annotated_outputs(values, labels, kind)
    targets = _true_labels(values, labels, kind) if labels_from == "true" else _pseudo_labels(values, kind)
    return (_score(values, targets, kind) * _annotated_outputs(values, labels, kind)).unsqueeze(0)


def count_terms(logits: Tensor, labels: Tensor | None, kind: Likelihood) -> int:
    """How many annotated labels (values, for a regression) a batch has: what the mean over its loss divides by."""
    annotated = _annotated_outputs(logits, labels, kind)
    if kind == "categorical":
        annotated = annotated[..., 0]
    return int(annotated.sum())


def _expectation(values: Tensor, kind: Likelihood) -> Tensor:
    """Columns ``[K, *values.shape]`` of a factor of the covariance of the score under the model's distribution."""
    if kind == "categorical":
        return _categorical_factor(values.log_softmax(-1)).permute(2, 0, 1)
    # Otherwise the labels are independent, and their score's covariance is diagonal: p (1 - p), or 1 / variance.
    if kind == "bernoulli":
        deviations = (values.sigmoid() * (-values).sigmoid()).sqrt()
    else:
        deviations = torch.full_like(values, VARIANCES[kind] ** -0.5)
    if values.dim() == 1:
        return deviations.unsqueeze(0)
    return torch.diag_embed(deviations).movedim(-1, 0)


def _categorical_factor(log_probabilities: Tensor) -> Tensor:
    """The Cholesky factor of ``diag(p) - p pᵀ``, without its last column, which is zero.

    With the tail sums ``t_j = p_j + … + p_C`` the factor is ``L_jj = sqrt(p_j t_{j+1} / t_j)`` and, below the diagonal,
    ``L_ij = -p_i sqrt(p_j / (t_j t_{j+1}))`` (Tanabe and Sagae, "An exact Cholesky decomposition and the generalized
    inverse of the variance-covariance matrix of the multinomial distribution", Journal of the Royal Statistical
    Society B 54, 1992). Written with logarithms it has no cancellation and holds where probabilities vanish.

    Args:
        log_probabilities: ``[batch, C]``.

    Returns:
        ``[batch, C, C - 1]``.
    """
    tails = log_probabilities.flip(-1).logcumsumexp(-1).flip(-1)
    later = tails[:, 1:]
    diagonal = ((log_probabilities[:, :-1] + later - tails[:, :-1]) / 2).exp()
    # p_i / t_{j+1}, the probability of class i among those after j. What has probability zero (a logit of -inf) has no
    # part, also where this would be 0 / 0.
    conditional = (log_probabilities.unsqueeze(2) - later.unsqueeze(1)).exp()
    impossible = log_probabilities.isneginf()
    conditional = conditional.masked_fill(impossible.unsqueeze(2), 0.0)
    diagonal = diagonal.masked_fill(impossible[:, :-1], 0.0)
    size = log_probabilities.shape[1]
    identity = torch.eye(size, size - 1, dtype=diagonal.dtype, device=diagonal.device)
    return identity * diagonal.unsqueeze(1) + torch.tril(-conditional * diagonal.unsqueeze(1), -1)


def _score(values: Tensor, targets: Tensor, kind: Likelihood) -> Tensor:
    """The gradient of the log-likelihood of ``targets`` with respect to the outputs, of the outputs' shape."""
    if kind == "categorical":
        indicators = torch.zeros_like(values).scatter_(-1, targets.unsqueeze(-1), 1.0)
        return indicators - values.softmax(-1)
    if kind == "bernoulli":
        return targets - values.sigmoid()
    return (targets - values) / VARIANCES[kind]


def _true_labels(values: Tensor, labels: Tensor | None, kind: Likelihood) -> Tensor:
    """The labels in the form that `_score` takes; ignored ones are replaced by a valid one."""
    assert labels is not None
    if kind in VARIANCES:
        return labels.reshape(values.shape).to(values.dtype)
    annotated = labels.masked_fill(labels == IGNORED, 0)
    return annotated.long() if kind == "categorical" else annotated.to(values.dtype)


def _pseudo_labels(values: Tensor, kind: Likelihood) -> Tensor:
    """The most probable labels."""
    return values.argmax(-1) if kind == "categorical" else (values > 0).to(values.dtype)


def _annotated_outputs(values: Tensor, labels: Tensor | None, kind: Likelihood) -> Tensor:
    """Booleans that broadcast to the outputs' shape: which outputs belong to an annotated label."""
    if labels is None or kind in VARIANCES:
        return torch.ones_like(values, dtype=torch.bool)
    annotated = labels != IGNORED
    return annotated.unsqueeze(-1).expand(values.shape) if kind == "categorical" else annotated


def _check(logits: Tensor, labels: Tensor | None, kind: Likelihood, labels_from: LabelSource) -> None:
    """Raise for arguments that do not fit together."""
    if kind not in get_args(Likelihood):
        raise StatisticsError(f"kind='{kind}': expected one of {', '.join(get_args(Likelihood))}")
    if labels_from not in get_args(LabelSource):
        raise StatisticsError(f"labels_from='{labels_from}': expected one of {', '.join(get_args(LabelSource))}")
    shape = tuple(logits.shape)
    most = 3 if kind == "categorical" else 2
    least = 1 if kind in VARIANCES else 2
    if not least <= logits.dim() <= most:
        raise StatisticsError(f"kind='{kind}': logits of shape {shape}; expected {least} to {most} dimensions")
    if kind == "categorical" and shape[-1] < 2:
        raise StatisticsError(f"kind='categorical': logits of shape {shape} have one class; use bernoulli or gaussian")
    if labels_from == "expectation" and logits.dim() == 3:
        raise StatisticsError(
            f"labels_from='expectation': logits of shape {shape} hold a label for each token, and the expectation over "
            "all of them would cost a pass for each token and class; use labels_from='true' or 'pseudo'"
        )
    if labels_from == "pseudo" and kind in VARIANCES:
        raise StatisticsError(
            "labels_from='pseudo': the most probable value of a regression is its output, where the gradient is zero; "
            "use labels_from='expectation' or 'true'"
        )
    if labels is None:
        if labels_from == "true":
            raise StatisticsError("labels_from='true': the batch has no labels")
        return
    _check_labels(logits, labels, kind)


def _check_labels(logits: Tensor, labels: Tensor, kind: Likelihood) -> None:
    """Raise for labels that do not fit the logits."""
    expected = tuple(logits.shape[:-1] if kind == "categorical" else logits.shape)
    # A regression's only output may come as [batch, 1] with labels [batch], or the other way round.
    fits = tuple(labels.shape) == expected or (
        kind in VARIANCES and len(labels) == len(logits) and labels.numel() == logits.numel()
    )
    if not fits:
        raise StatisticsError(
            f"kind='{kind}': labels of shape {tuple(labels.shape)}, logits of shape {tuple(logits.shape)}; "
            f"expected labels of shape {expected}"
        )
    if kind == "categorical":
        if labels.is_floating_point():
            raise StatisticsError("kind='categorical': labels must be integers; use gaussian for a regression")
        classes = logits.shape[-1]
        wrong = (labels != IGNORED) & ((labels < 0) | (labels >= classes))
        if bool(wrong.any()):
            raise StatisticsError(
                f"kind='categorical': label {int(labels[wrong][0])} outside 0 to {classes - 1}; "
                f"use {IGNORED} for what is not annotated"
            )

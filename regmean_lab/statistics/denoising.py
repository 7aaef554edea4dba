"""Counts under known noise, by empirical Bayes: what they are in the mean, given all noisy counts together."""

from __future__ import annotations

import torch
from torch import Tensor

from .privacy import Noise

ROUNDS = 200
"""Of expectation and maximisation; the likelihood hardly changes after a few dozen."""

GROUPS = 12
"""Of tokens with numbers next to each other."""

GROUP_TOKENS = 500
"""Least tokens of a group: a distribution cannot be told from a few."""

VALUES = 60
"""Counts from 1 to the largest that are thought possible beside the noisy ones, even on a logarithmic scale."""


def posterior_means(noisy: Tensor, noise: Noise) -> Tensor:
    """The mean of each true count given its noisy one.

    The distribution of true counts is the one under which the noisy counts are likeliest (Kiefer and Wolfowitz, Annals
    of Mathematical Statistics, 1956), found by expectation and maximisation on a grid. So counts of zero, of which
    there are most, become next to zero without a threshold. Nothing but noisy counts is used: what is differentially
    private stays so.

    Args:
        noisy: int64 [counts], at least one, with independent noise.
        noise: that noise.

    Returns:
        float64 [counts], none below 0.
    """
    observed, place = noisy.to(torch.float64).unique(return_inverse=True)
    times = torch.bincount(place, minlength=len(observed)).to(torch.float64)
    values = _possible(observed, noise.deviation)
    likelihood = noise.log_likelihood(observed.unsqueeze(1) - values)
    likelihood = (likelihood - likelihood.amax(1, keepdim=True)).exp()
    weights = torch.full_like(values, 0.5 / max(1, len(values) - 1))
    weights[0] = 0.5
    weights /= weights.sum()
    for _ in range(ROUNDS):
        weights = (times @ _posterior(likelihood, weights)) / times.sum()
    return (_posterior(likelihood, weights) @ values)[place]


def counts_of_tokens(noisy: Tensor, noise: Noise) -> Tensor:
    """Whole numbers nearest to the posterior means of the counts of a vocabulary's tokens.

    Tokenizers number their tokens by how often they were in public text: the merges of byte-pair encoding and WordPiece
    come in that order, the pieces of a unigram model by their probability. So tokens with numbers next to each other
    are about as frequent, and each of `GROUPS` groups of neighbours has a distribution of its own.

    Args:
        noisy: int64 [tokens], in the order of their ids.
        noise: the noise on them.

    Returns:
        int64 [tokens]; 0 for what no more than half a text is thought to have.
    """
    groups = noisy.chunk(max(1, min(GROUPS, len(noisy) // GROUP_TOKENS)))
    return torch.cat([posterior_means(group, noise) for group in groups]).round().to(torch.int64)


def _possible(observed: Tensor, deviation: float) -> Tensor:
    """Zero, numbers up to the largest noisy count, and noisy counts, which are the true ones where noise is little.

    Of noisy counts those within half the standard deviation of the noise are one, as no more can be told apart.
    """
    steps, apart = torch.linspace(0, 1, VALUES, dtype=torch.float64), max(1, int(deviation / 2))
    between, near = (observed[-1].clamp(min=1) ** steps).round(), (observed / apart).round() * apart
    return torch.cat([torch.zeros(1, dtype=torch.float64), between, near[near > 0]]).unique()


def _posterior(likelihood: Tensor, weights: Tensor) -> Tensor:
    """The distribution of the true count for each noisy one, [noisy, possible]."""
    joint = likelihood * weights
    return joint / joint.sum(1, keepdim=True)

"""Noise of differential privacy on counts, drawn exactly, and how much of it a guarantee takes.

Noise is a whole number, sampled with whole numbers only (Canonne, Kamath and Steinke, The Discrete Gaussian for
Differential Privacy, NeurIPS 2020, algorithms 1 to 3): floating-point noise would betray the count under it (Mironov,
CCS 2012). It comes from the operating system's randomness, as noise from a published seed could be subtracted again.

Why not a library: OpenDP 0.16 is a wheel of 47 MB and takes no source of randomness, so that its noise cannot be
tested here; PyDP 1.1.5 has neither exact noise nor histograms over a given domain.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor

LENGTHS_SHARE = 0.1
"""Share of ε that goes to the histogram of lengths; what these shares leave goes to the counts of tokens."""

PAIRS_SHARE = 0.05
"""Share of ε that goes to each of the two histograms of pairs of texts, where there are any."""

FALSE_LENGTHS = 0.01
"""Expected number of ranges of lengths that are told and no text has: such a length may be very long."""

GRAIN = 10**6
"""ε is rounded down to a multiple of its inverse, and a variance up."""


def secure_source() -> random.Random:
    """The operating system's randomness, which no seed brings back."""
    return random.SystemRandom()


@dataclass(frozen=True)
class Noise:
    """Noise on each of some counts, of which a text changes at most ``sensitivity`` by one each.

    Attributes:
        sensitivity: how many counts a text changes by one.
        epsilon: ε, above 0.
        delta: δ, between 0 and 1: discrete Gaussian noise; None for discrete Laplace noise, and δ = 0.
    """

    sensitivity: int
    epsilon: float
    delta: float | None = None

    @property
    def mechanism(self) -> str:
        """What it is called."""
        return "discrete Laplace" if self.delta is None else "discrete Gaussian"

    @property
    def scale(self) -> Fraction:
        """Of Laplace noise b, with P(x) ∝ exp(−|x|/b) and b = sensitivity/ε; of Gaussian noise the variance σ²."""
        epsilon = Fraction(math.floor(self.epsilon * GRAIN), GRAIN)
        if self.delta is None:
            return self.sensitivity / max(epsilon, Fraction(1, GRAIN))
        rho = concentrated(self.epsilon, self.delta)
        return Fraction(math.ceil(self.sensitivity / (2 * rho) * GRAIN), GRAIN)

    @property
    def deviation(self) -> float:
        """The standard deviation of such noise that is not rounded to whole numbers."""
        return math.sqrt(float(self.scale)) if self.delta is not None else math.sqrt(2) * float(self.scale)

    def draw(self, count: int, source: random.Random) -> Tensor:
        """As many independent numbers: int64 [count]."""
        scale = self.scale
        draw = discrete_laplace if self.delta is None else discrete_gaussian
        return torch.tensor([draw(scale, source) for _ in range(count)], dtype=torch.int64)

    def log_likelihood(self, noise: Tensor) -> Tensor:
        """Logarithm of the probability of some noise, but for a constant: float64, of the same shape."""
        scale = float(self.scale)
        return -noise.abs() / scale if self.delta is None else -noise.square() / (2 * scale)

    def threshold(self, false_share: float) -> int:
        """The least noisy count that is taken for one above zero.

        Args:
            false_share: at most this share of the counts of zero are then taken for more, in the mean.
        """
        share = min(false_share, 0.5)
        scale = float(self.scale)
        if self.delta is not None:
            from scipy.stats import norm  # takes a second to import, and most statistics are without noise

            return max(1, math.ceil(float(norm.isf(share)) * math.sqrt(scale)))
        # P(x ≥ t) = qᵗ / (1 + q) with q = exp(−1/b).
        return max(1, math.ceil(-math.log(share * (1 + math.exp(-1 / scale))) * scale))

    def describe(self) -> dict[str, Any]:
        """What a file tells of it."""
        name = "scale" if self.delta is None else "variance"
        return {
            "mechanism": self.mechanism,
            "sensitivity": self.sensitivity,
            "epsilon": self.epsilon,
            "delta": self.delta or 0.0,
            name: float(self.scale),
        }


@cache
def concentrated(epsilon: float, delta: float) -> float:
    """The largest ρ for which ρ-zCDP implies (ε, δ): Gaussian noise of variance σ² has ρ = ‖difference‖² / 2σ².

    By δ(ρ) = min over α > 1 of exp((α − 1)(αρ − ε)) (1 − 1/α)^α / (α − 1) (Canonne, Kamath and Steinke, 2020, corollary
    13), and bisection.
    """
    low, high = 0.0, epsilon + 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_delta(middle, epsilon) <= math.log(delta) else (low, middle)
    return low


def discrete_laplace(scale: Fraction, source: random.Random) -> int:
    """A whole number x with probability proportional to exp(−|x| / scale); exact."""
    width, step = scale.numerator, scale.denominator
    while True:
        rest = source.randrange(width)
        if not _accepts(rest, width, source):
            continue
        rounds = 0
        while _accepts(1, 1, source):
            rounds += 1
        size = (rest + width * rounds) // step
        negative = source.randrange(2)
        if size or not negative:  # zero would have two signs
            return -size if negative else size


def discrete_gaussian(variance: Fraction, source: random.Random) -> int:
    """A whole number x with probability proportional to exp(−x² / 2 variance); exact."""
    above, below = variance.numerator, variance.denominator
    width = math.isqrt(above // below) + 1
    divisor = 2 * above * below * width * width
    while True:
        drawn = discrete_laplace(Fraction(width), source)
        if _accepts((abs(drawn) * below * width - above) ** 2, divisor, source):
            return drawn


def _accepts(numerator: int, denominator: int, source: random.Random) -> bool:
    """Whether an event of probability exp(−numerator / denominator) happens."""
    while numerator > denominator:
        if not _accepts(1, 1, source):
            return False
        numerator -= denominator
    drawn = 1
    while source.randrange(denominator * drawn) < numerator:
        drawn += 1
    return drawn % 2 == 1


def _log_delta(rho: float, epsilon: float) -> float:
    """Logarithm of the δ that ρ-zCDP implies for ε."""
    from scipy.optimize import minimize_scalar  # as above

    def bound(log_above_one: float) -> float:
        above = math.exp(log_above_one)
        alpha = 1 + above
        return above * (alpha * rho - epsilon) + alpha * math.log1p(-1 / alpha) - log_above_one

    return float(minimize_scalar(bound, bounds=(-12.0, 16.0), method="bounded").fun)

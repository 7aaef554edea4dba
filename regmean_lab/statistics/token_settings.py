"""Settings of counts of tokens; as in :mod:`regmean_lab.statistics.settings`, nothing here imports PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from typing_extensions import override

from regmean_lab.statistics.settings import KindConfig
from regmean_lab.utils.checks import at_least_one

SMALLEST_EPSILON = 1e-3
"""Least ε of differential privacy: below it all is noise."""


@dataclass
class TokensConfig(KindConfig):
    """How tokens are counted.

    Attributes:
        examples: number of training examples of each member; None is all of them.
        batches: the same counted in batches of ``training.batch_size``; overrides ``examples``.
        minimum_count: a token, a pair, a range of lengths, or a tenth of a histogram of pairs of texts is told if it
            occurs in at least so many different texts; with ``epsilon`` this is of ranges of lengths alone, by noisy
            numbers of texts.
        pairs: count pairs of adjacent tokens too.
        by_label: count tokens separately for the texts that the member gives each label.
        epsilon: ε of differential privacy, where adding or removing one text makes neighbours of data sets: counts of
            texts get noise from the operating system's randomness. None adds none.
        delta: δ of it: Gaussian noise; None is Laplace noise, and δ = 0.
        tokens_per_text: for ``epsilon``, how many distinct tokens of a text are counted: its first ones, each once.
    """

    examples: int | None = None
    minimum_count: int = 5
    pairs: bool = False
    by_label: bool = False
    epsilon: float | None = None
    delta: float | None = None
    tokens_per_text: int = 20

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        at_least_one("minimum_count", self.minimum_count, found)
        at_least_one("tokens_per_text", self.tokens_per_text, found)
        if self.pairs and self.by_label:
            found.append("pairs: are of all texts together; expected by_label=false, or pairs=false")
        if self.epsilon is None:
            if self.delta is not None:
                found.append(f"delta: is for epsilon, which is not set; expected null, got {self.delta}")
            return found
        if not (math.isfinite(self.epsilon) and self.epsilon >= SMALLEST_EPSILON):
            found.append(f"epsilon: expected a number of at least {SMALLEST_EPSILON}, got {self.epsilon}")
        if self.delta is not None and not 0 < self.delta < 1:
            found.append(f"delta: expected a number between 0 and 1, or null, got {self.delta}")
        if self.pairs:
            found.append("pairs: there are too many that could occur to add noise to all; with epsilon, expected false")
        if self.by_label:
            found.append("by_label: labels depend on other texts of a batch; with epsilon, expected false")
        if self.examples is not None or self.batches is not None:
            found.append(
                "examples: which are drawn depends on how many there are, so that one more text could change them all; "
                "with epsilon, expected null"
            )
        return found

    @property
    def is_private(self) -> bool:
        """With ``epsilon``."""
        return self.epsilon is not None

    @property
    def serves_any(self) -> bool:
        """Counts are counts."""
        return True

"""Weights of the loss of yes/no labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def sqrt_weights(labels: Iterable[Sequence[int]]) -> Tensor:
    """Weights by the square root of the shares of negatives and positives, as in the code of Jin et al., ICLR 2023.

    With the shares p₀ of negatives and p₁ of positives among a label's annotated examples, negatives have the weight
    (√p₀ + √p₁) / (2 √p₁) and positives (√p₀ + √p₁) / (2 √p₀): both 1 where there are as many of each, and otherwise
    more for the value that is more frequent. A label of which there are only negatives or only positives has no weight.

    Args:
        labels: the training examples' labels: 0, 1 or a negative number where a label is not annotated.

    Returns:
        Shape [2, labels], float32: for each label the weights of negatives and of positives.
    """
    columns = []
    for values in zip(*labels, strict=True):
        negatives, positives = values.count(0), values.count(1)
        if negatives and positives:
            ratio = math.sqrt(negatives / positives)
            columns.append(((1 + ratio) / 2, (1 + 1 / ratio) / 2))
        else:
            columns.append((0.0, 0.0))
    return torch.tensor(columns).T

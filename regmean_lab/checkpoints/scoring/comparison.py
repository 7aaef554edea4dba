"""Whether two checkpoints differ on the same examples by more than chance."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest
from torch import Tensor

from regmean_lab.metrics.metrics import predictions
from regmean_lab.modules import Predictions
from regmean_lab.suites.base import IGNORED, Task


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints on one corpus.

    Attributes:
        examples: number of examples.
        right: on how many the checkpoint is right.
        reference_right: on how many the other one is.
        only: on how many the checkpoint alone is right.
        only_reference: on how many the other one alone is.
        probability: two-sided p of McNemar's exact test: the binomial test of the examples on which one alone is right.
    """

    examples: int
    right: int
    reference_right: int
    only: int
    only_reference: int
    probability: float


def compared(right: Tensor, reference: Tensor) -> Comparison:
    """Compare two checkpoints by what they are right on.

    Args:
        right: for each example whether the checkpoint is right, bool of shape [examples].
        reference: the same for the other one.
    """
    only, only_reference = int((right & ~reference).sum()), int((reference & ~right).sum())
    apart = only + only_reference
    probability = float(binomtest(only, apart).pvalue) if apart else 1.0
    return Comparison(len(right), int(right.sum()), int(reference.sum()), only, only_reference, probability)


def right_on(task: Task, predicted: Predictions) -> Tensor | None:
    """For each example whether all of its labels are predicted; None for numbers, which are hardly ever met.

    Returns:
        bool of shape [examples]; of tagged words, of the sentences, or the parts of those that are too long.
    """
    if task.kind == "regression":
        return None
    if task.kind == "text":  # texts that greedy decoding writes exactly: all of their tokens are right
        return predicted.logits[:, 1] == predicted.logits[:, 2]
    labels = predicted.labels[:, 0] if task.kind == "answers" else predicted.labels
    same = (predictions(task, predicted.logits) == labels) | (labels == IGNORED)
    return same if same.dim() == 1 else same.flatten(1).all(1)


def comparison_line(corpus: str, name: str, reference: str, found: Comparison) -> str:
    """A comparison in words."""
    p = "< 0.001" if found.probability < 0.001 else f"= {found.probability:.3f}"
    return (
        f"{corpus}: {name} is right on {found.right} of {found.examples} examples, {reference} on "
        f"{found.reference_right}; alone on {found.only} and {found.only_reference} (McNemar's exact test, p {p})"
    )

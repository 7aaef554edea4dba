"""Metrics for generated text."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from regmean_lab.metrics.metrics import Scoring, register_scoring
from regmean_lab.suites.base import Task


class TextScores(Metric):
    """Share of texts that greedy decoding writes exactly, share of right tokens, and perplexity.

    Takes what :meth:`regmean_lab.modules.language_modeling.LanguageModule.evaluate` gives, shape [texts, 3], and labels
    that are not looked at.
    """

    higher_is_better = True
    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count one batch."""
        log_probability, right, tokens = predictions.double().unbind(1)
        texts = torch.ones_like(right)
        counts = [log_probability, right, tokens, (right == tokens).double(), texts]
        self.sums += torch.stack([count.sum() for count in counts]).to(self.sums)

    def compute(self) -> dict[str, Tensor]:
        """``exact_match`` and ``token_accuracy`` between 0 and 1, and ``perplexity`` of a token, all float64."""
        log_probability, right, tokens, exact, texts = self.sums.unbind()
        return {
            "exact_match": exact / texts,
            "token_accuracy": right / tokens,
            "perplexity": (-log_probability / tokens).exp(),
        }


def _texts(task: Task) -> MetricCollection:
    return MetricCollection({"texts": TextScores()}, compute_groups=False)


register_scoring("text", Scoring(_texts, lambda task, logits: logits, plain=("perplexity",)))

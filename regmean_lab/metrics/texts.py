"""Metrics for generated text."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from regmean_lab.metrics.metrics import Scoring, register_scoring
from regmean_lab.suites.base import Task
from regmean_lab.suites.key_scores import ROUGE_SCORES


class TextScores(Metric):
    """Share of texts that greedy decoding writes exactly, share of right tokens, and perplexity.

    Takes what :meth:`regmean_lab.modules.language_modeling.LanguageModule.evaluate` gives, shape [texts, 3] or, with a
    ROUGE score of each text, [texts, 4], and labels that are not looked at.

    Args:
        rouge: name of the ROUGE score; empty where there is none.
    """

    higher_is_better = True
    full_state_update = False
    sums: Tensor

    def __init__(self, rouge: str = "") -> None:
        super().__init__()
        self.rouge = rouge
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Count one batch."""
        log_probability, right, tokens, *rouge = predictions.double().unbind(1)
        texts = torch.ones_like(right)
        counts = [
            log_probability,
            right,
            tokens,
            (right == tokens).double(),
            texts,
            *(rouge or [torch.zeros_like(right)]),
        ]
        self.sums += torch.stack([count.sum() for count in counts]).to(self.sums)

    def compute(self) -> dict[str, Tensor]:
        """``exact_match``, ``token_accuracy`` and the ROUGE score, between 0 and 1, and ``perplexity`` of a token.

        All are float64.
        """
        log_probability, right, tokens, exact, texts, rouge = self.sums.unbind()
        return {
            **({self.rouge: rouge / texts} if self.rouge else {}),
            "exact_match": exact / texts,
            "token_accuracy": right / tokens,
            "perplexity": (-log_probability / tokens).exp(),
        }


def _texts(task: Task) -> MetricCollection:
    rouge = task.key_score if task.key_score in ROUGE_SCORES else ""
    return MetricCollection({"texts": TextScores(rouge)}, compute_groups=False)


register_scoring("text", Scoring(_texts, lambda task, logits: logits, plain=("perplexity",)))

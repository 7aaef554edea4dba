"""What the published code computes, as plain loops and formulas in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from benchmarks.baseline import Batch
from regmean_lab.modules import TaskModule
from regmean_lab.suites.base import IGNORED, Example, Task


def naive_macro_f1(predicted: list[list[bool]], labels: list[list[int]]) -> float:
    """Mean F1 of the annotated labels, counted one by one, times 100."""
    scores = []
    for guesses, truths in zip(zip(*predicted, strict=True), zip(*labels, strict=True), strict=True):
        pairs = [(guess, truth) for guess, truth in zip(guesses, truths, strict=True) if truth != IGNORED]
        if pairs:
            right = sum(guess and truth == 1 for guess, truth in pairs)
            total = sum(guess for guess, _ in pairs) + sum(truth for _, truth in pairs)
            scores.append(2 * right / total if total else 0.0)
    return 100 * sum(scores) / len(scores)


def naive_reweighted(logits: list[list[float]], labels: list[list[int]], train: Sequence[Sequence[int]]) -> float:
    """The published loss, label by label, in Python's floats."""
    total, annotated = 0.0, 0
    for number in range(len(labels[0])):
        column = [row[number] for row in train]
        counts = (column.count(0), column.count(1))
        for row, truth in zip(logits, labels, strict=True):
            if truth[number] == IGNORED:
                continue
            annotated += 1
            if min(counts) > 0:
                inverse = [count**-0.5 for count in counts]
                sign = 1 if truth[number] == 1 else -1
                total += sum(inverse) / (2 * inverse[truth[number]]) * math.log1p(math.exp(-sign * row[number]))
    return total / annotated


def naive_published_f1(task: Task, predicted: Tensor, labels: Tensor) -> float:
    """F1 of entities that a regular expression finds over the tags' first letters, times 100."""
    found: list[set[tuple[int, int, int, str]]] = [set(), set()]
    for row in range(len(labels)):
        kept = labels[row] != IGNORED
        for side, ids in enumerate((labels[row][kept], predicted[row][kept])):
            tags = [task.labels[number] for number in ids.tolist()]
            for match in re.finditer("BI*|I", "".join(tag[0] for tag in tags)):
                found[side].add((row, match.start(), match.end(), tags[match.end() - 1][2:]))
    return 100 * 2 * len(found[0] & found[1]) / max(len(found[0]) + len(found[1]), 1)


def _answer_twice(module: TaskModule, batch: Batch) -> None:
    """A pass with the right answers, and what transformers' own generation passes."""
    module.gram_pass(batch)
    module.model.generate(  # type: ignore[operator]
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_length=4, do_sample=False, num_beams=1
    )


def naive_hard(module: TaskModule, batch: Batch) -> Tensor:
    """Mean negative logarithm of the softmax over all outputs at the largest of them, in float64."""
    logits = module(batch)
    return (logits.exp().sum(1).log() - logits.max(1).values).mean()


def naive_tags(module: TaskModule, batch: Batch) -> Tensor:
    """Mean cross-entropy over the labelled words of a batch, in float64."""
    logits, labels = module(batch), batch["labels"]
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    return (logits.exp().sum(1).log() - logits[torch.arange(len(labels)), labels]).mean()


def naive_answers(module: TaskModule, batch: Batch) -> Tensor:
    """The loss that transformers itself returns, the mean over all answer tokens of a batch, in float64."""
    loss: Tensor = module.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["target"]
    ).loss
    return loss


def naive_loss(module: TaskModule, batch: Batch) -> Tensor:
    """Mean binary cross-entropy over annotated labels, in float64."""
    logits, labels = module(batch), batch["labels"]
    signs = torch.where(labels == 1, 1.0, -1.0).double()
    return torch.nn.functional.softplus(-signs * logits)[labels != IGNORED].mean()


def _values(sentence: Example) -> tuple[int, ...]:
    return cast(tuple[int, ...], sentence.label)

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from regmean_lab.metrics.answers import AnswerMacroF1
from regmean_lab.metrics.ensemble import ensemble_predictions
from regmean_lab.metrics.metrics import build_metrics, percentages, predictions, score, score_predictions
from regmean_lab.suites.base import IGNORED, Task

LABELS = ("joy", "anger", "fear", "love")
TASK = Task("answers", LABELS, "macro_f1")


def drawn(seed: int, examples: int, asked: int = 4) -> tuple[Tensor, Tensor]:
    """Answers and targets about the first ``asked`` labels."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.stack(
        [torch.randint(2, (examples,), generator=generator), torch.randint(asked, (examples,), generator=generator)], 1
    )
    return torch.randint(2, (examples,), generator=generator), targets


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 4))
def test_mean_f1_of_the_labels_that_are_asked_about(seed: int, examples: int, asked: int) -> None:
    answers, targets = drawn(seed, examples, asked)
    result = score_predictions(TASK, answers, targets)
    label = targets[:, 1].numpy()
    each = [
        f1_score(targets[label == number, 0], answers[label == number], zero_division=0.0)
        for number in np.unique(label)
    ]
    assert set(result) == {"macro_f1", "accuracy"}
    assert result["macro_f1"] == pytest.approx(100 * float(np.mean(each)), abs=1e-3)
    assert result["accuracy"] == pytest.approx(100 * accuracy_score(targets[:, 0], answers), abs=1e-3)


def test_label_without_any_yes_counts_as_zero_and_a_label_not_asked_about_not_at_all() -> None:
    targets = torch.tensor([[1, 0], [0, 2]])
    assert score_predictions(TASK, torch.tensor([1, 0]), targets)["macro_f1"] == pytest.approx(50)
    assert score_predictions(TASK, torch.tensor([1]), targets[:1])["macro_f1"] == pytest.approx(100)


def test_score_is_that_of_a_classifier_with_the_same_decisions() -> None:
    """Questions about every label of every sentence, and the same labels as a multi-label classifier's."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (30, 4), generator=generator)
    labels[torch.rand(30, 4, generator=generator) < 0.3] = IGNORED
    decisions = torch.randint(2, (30, 4), generator=generator)
    known = labels != IGNORED
    targets = torch.stack([labels[known], known.nonzero()[:, 1]], 1)
    expected = score_predictions(Task("multi_label", LABELS, "macro_f1"), decisions, labels)
    assert score_predictions(TASK, decisions[known], targets) == pytest.approx(expected, abs=1e-4)


def test_counts_add_up_over_batches_and_are_forgotten() -> None:
    answers, targets = drawn(1, 50)
    whole = score_predictions(TASK, answers, targets)
    metrics = build_metrics(TASK)
    for start in range(0, 50, 7):
        metrics.update(answers[start : start + 7], targets[start : start + 7])
    assert percentages(TASK, metrics) == pytest.approx(whole, abs=1e-4)
    metric = AnswerMacroF1(4)
    metric.update(answers, targets)
    metric.reset()
    metric.update(*drawn(2, 20))
    assert 100 * float(metric.compute()) == pytest.approx(score_predictions(TASK, *drawn(2, 20))["macro_f1"], abs=1e-4)


def test_the_likelier_answer_is_given_and_of_equals_no() -> None:
    logits = torch.tensor([[-1.0, -2.0], [-3.0, -0.5], [-1.0, -1.0]])
    assert predictions(TASK, logits).tolist() == [0, 1, 0]
    assert score(TASK, logits, torch.tensor([[0, 0], [1, 0], [0, 0]]))["accuracy"] == 100


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_members_have_a_voice_on_the_labels_that_they_know(seed: int, members: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    _, targets = drawn(seed, 12)
    logits = [torch.randn(12, 2, generator=generator) for _ in range(members)]
    known = [torch.rand(4, generator=generator) < 0.5 for _ in range(members)]
    soft = ensemble_predictions(TASK, "soft", logits, targets, [row.tolist() for row in known])
    hard = ensemble_predictions(TASK, "majority", logits, targets, [row.tolist() for row in known])
    for example, label in enumerate(targets[:, 1].tolist()):
        voices = [i for i in range(members) if known[i][label]]  # without any the answer is no
        difference = sum(float(logits[i][example, 1] - logits[i][example, 0]) for i in voices)
        assert int(soft[example]) == int(difference > 0)
        votes = [float(logits[i][example, 1]) > float(logits[i][example, 0]) for i in voices]
        assert int(hard[example]) == int(sum(votes) > len(votes) / 2)


def test_without_knowledge_all_members_vote() -> None:
    yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 0.0]])
    targets = torch.tensor([[1, 2]])
    assert ensemble_predictions(TASK, "majority", [yes, no, yes], targets).tolist() == [1]
    assert ensemble_predictions(TASK, "majority", [yes, no], targets).tolist() == [0]
    assert ensemble_predictions(TASK, "soft", [yes, no, yes], targets).tolist() == [0]

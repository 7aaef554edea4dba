from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from regmean_lab.metrics.metrics import AnnotatedMacroF1, build_metrics, percentages, predictions, score
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.glue_data import TASKS
from regmean_lab.suites.key_scores import key_score_problem

LABELS = ("a", "b", "c", "d")
MULTI = Task("multi_label", LABELS, "macro_f1")
SINGLE = Task("single_label", LABELS, "macro_f1")
REGRESSION = Task("regression", ("score",), "pearson")


def annotated_macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean of scikit-learn's F1 of each label over the examples that annotate it; labels without any are left out."""
    scores = []
    for label in range(labels.shape[1]):
        known = labels[:, label] != IGNORED
        if known.any():
            scores.append(sklearn_metrics.f1_score(labels[known, label], predicted[known, label], zero_division=0.0))
    return float(np.mean(scores)) if scores else math.nan


@st.composite
def annotated_data(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """Predictions and labels [examples, 4], some labels ignored, and where the data is cut into batches."""
    examples = draw(st.integers(1, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.1, 0.5, 0.9]))
    predicted = (torch.rand(examples, 4, generator=generator) < share).long()
    labels = (torch.rand(examples, 4, generator=generator) < share).long()
    labels[torch.rand(examples, 4, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9]))] = IGNORED
    labels[:, draw(st.lists(st.integers(0, 3), max_size=3))] = IGNORED
    cuts = sorted(draw(st.lists(st.integers(0, examples), max_size=3)))
    return predicted, labels, cuts


def test_labels_that_a_model_does_not_know_are_not_predicted() -> None:
    logits = torch.tensor([[3.0, 3.0, -3.0, 3.0], [3.0, -3.0, 3.0, 3.0]])
    labels = torch.tensor([[1, 1, 0, IGNORED], [0, 1, 1, IGNORED]])
    # By hand: a 1 of 2 right (F1 2/3), b one of two found (F1 2/3), c all right (F1 1); d is not annotated.
    assert score(MULTI, logits, labels)["macro_f1"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3)
    unknown = score(MULTI, logits, labels, known=(False, True, True, False))
    assert unknown["macro_f1"] == pytest.approx(100 * (0 + 2 / 3 + 1) / 3)
    assert unknown["accuracy"] == pytest.approx(100 * 4 / 6)
    # Without any positive the label counts 0 as well.
    labels[:, 0] = 0
    assert score(MULTI, logits, labels, known=(False, True, True, True))["accuracy"] == pytest.approx(100 * 5 / 6)
    classes = score(SINGLE, logits, torch.tensor([0, 3]), known=(False, False, False, False))
    assert classes == score(SINGLE, logits, torch.tensor([0, 3]))


@settings(max_examples=60, deadline=None)
@given(annotated_data())
def test_macro_f1_over_annotated_labels_is_scikit_learns(data: tuple[Tensor, Tensor, list[int]]) -> None:
    predicted, labels, cuts = data
    metric = AnnotatedMacroF1(4)
    edges = [0, *cuts, len(labels)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            metric.update(predicted[start:end], labels[start:end])
    expected = annotated_macro_f1(predicted.numpy(), labels.numpy())
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_macro_f1_forgets_when_it_is_reset() -> None:
    metric = AnnotatedMacroF1(2)
    metric.update(torch.tensor([[1, 0]]), torch.tensor([[0, 1]]))
    metric.reset()
    metric.update(torch.tensor([[1, 1]]), torch.tensor([[1, IGNORED]]))
    assert float(metric.compute()) == 1


def test_a_label_without_positives_and_predictions_counts_as_zero() -> None:
    metric = AnnotatedMacroF1(2)
    metric.update(torch.tensor([[1, 0], [1, 0]]), torch.tensor([[1, 0], [1, 0]]))
    assert float(metric.compute()) == 0.5


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), examples=st.integers(2, 40))
def test_multi_label_scores(seed: int, examples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(examples, 4, generator=generator)
    labels = (torch.rand(examples, 4, generator=generator) < 0.5).long()
    labels[torch.rand(examples, 4, generator=generator) < 0.2] = IGNORED
    labels[0, 0] = 1  # something is annotated
    scores = score(MULTI, logits, labels)
    predicted = (1 / (1 + np.exp(-logits.numpy().astype(float))) > 0.5).astype(int)
    known = labels.numpy() != IGNORED
    assert scores["macro_f1"] == pytest.approx(100 * annotated_macro_f1(predicted, labels.numpy()), abs=1e-4)
    assert scores["accuracy"] == pytest.approx(100 * float((predicted == labels.numpy())[known].mean()), abs=1e-4)


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), examples=st.integers(2, 40), labels_used=st.integers(2, 4))
def test_single_label_scores_are_scikit_learns(seed: int, examples: int, labels_used: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(examples, 4, generator=generator)
    labels = torch.randint(labels_used, (examples,), generator=generator)
    scores = score(SINGLE, logits, labels)
    truth, predicted = labels.numpy(), logits.numpy().argmax(1)
    assert scores["accuracy"] == pytest.approx(100 * sklearn_metrics.accuracy_score(truth, predicted), abs=1e-4)
    assert scores["macro_f1"] == pytest.approx(
        100 * sklearn_metrics.f1_score(truth, predicted, average="macro"), abs=1e-4
    )
    assert scores["matthews"] == pytest.approx(100 * sklearn_metrics.matthews_corrcoef(truth, predicted), abs=1e-3)


@pytest.mark.parametrize("labels", [("no", "yes"), LABELS])
@pytest.mark.parametrize("predicted", [0, 1])
def test_a_constant_prediction_has_no_matthews_correlation(labels: tuple[str, ...], predicted: int) -> None:
    task = Task("single_label", labels, "matthews")
    logits = torch.zeros(6, len(labels))
    logits[:, predicted] = 1
    for truth in ([0, 1, 1, 0, 1, 0], [0, 1, 1, 1, 1, 1], [1] * 6):
        assert score(task, logits, torch.tensor(truth))["matthews"] == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), examples=st.integers(3, 40))
def test_regression_scores_are_scipys(seed: int, examples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randn(examples, generator=generator)
    logits = (0.5 * labels + torch.randn(examples, generator=generator))[:, None]
    scores = score(REGRESSION, logits, labels)
    truth, predicted = labels.double().numpy(), logits[:, 0].double().numpy()
    assert scores["pearson"] == pytest.approx(100 * stats.pearsonr(truth, predicted).statistic, abs=1e-2)
    assert scores["spearman"] == pytest.approx(100 * stats.spearmanr(truth, predicted).statistic, abs=1e-2)
    assert scores["mean_squared_error"] == pytest.approx(float(np.mean((truth - predicted) ** 2)), rel=1e-4)


def test_a_constant_regression_has_no_correlation() -> None:
    scores = score(REGRESSION, torch.full((5, 1), 0.25), torch.arange(5.0))
    assert (scores["pearson"], scores["spearman"]) == (0, 0)


def test_a_label_is_predicted_above_half_its_probability() -> None:
    logits = torch.tensor([[-0.1, 0.0, 0.1, 0.6]])
    assert predictions(MULTI, logits).tolist() == [[0, 0, 1, 1]]


def test_a_label_can_be_predicted_above_half_its_logit() -> None:
    """As published systems do: a probability of 0.62."""
    task = Task("multi_label", LABELS, "macro_f1", threshold_on="logit")
    logits = torch.tensor([[-0.1, 0.49, 0.5, 0.51]])
    assert predictions(task, logits).tolist() == [[0, 0, 0, 1]]
    assert predictions(Task("multi_label", LABELS, "macro_f1", threshold=0.9), logits + 2).tolist() == [[0, 1, 1, 1]]


def test_the_threshold_itself_can_be_enough() -> None:
    logits = torch.tensor([[0.5, 0.4999, 0.5001, -3.0]])
    for inclusive, expected in ((False, [0, 0, 1, 0]), (True, [1, 0, 1, 0])):
        task = Task("multi_label", LABELS, "macro_f1", threshold_on="logit", threshold_inclusive=inclusive)
        assert predictions(task, logits).tolist() == [expected]
    task = Task("multi_label", LABELS, "macro_f1", threshold_inclusive=True)
    assert predictions(task, torch.tensor([[0.0, -1e-3, 1e-3, -9.0]])).tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize("name", ["mrpc", "qqp"])
def test_binary_f1_is_scikit_learns(name: str) -> None:
    task = TASKS[name].task
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(40, 2, generator=generator), torch.randint(2, (40,), generator=generator)
    measured = score(task, logits, labels)
    assert task.key_score == "accuracy"
    assert measured["binary_f1"] == pytest.approx(100 * sklearn_metrics.f1_score(labels, logits.argmax(-1)), abs=1e-4)
    assert measured["binary_f1"] != pytest.approx(measured["macro_f1"], abs=0.1)
    # No positives, neither true nor predicted: 0, as scikit-learn has it.
    nothing = score(task, torch.tensor([[1.0, 0.0]] * 3), torch.zeros(3, dtype=torch.long))
    assert (nothing["accuracy"], nothing["binary_f1"]) == (100, 0)


def test_tasks_of_more_classes_have_no_binary_f1() -> None:
    assert "binary_f1" not in score(TASKS["mnli"].task, torch.eye(3), torch.arange(3))


def test_predictions_of_the_other_kinds() -> None:
    assert predictions(SINGLE, torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 2.0, 1.0, -1.0]])).tolist() == [1, 0]
    assert predictions(REGRESSION, torch.tensor([[0.5], [-1.5]])).tolist() == [0.5, -1.5]


@pytest.mark.parametrize("task", [MULTI, SINGLE, REGRESSION], ids=lambda task: task.kind)
def test_batches_count_like_all_data_at_once(task: Task) -> None:
    generator = torch.Generator().manual_seed(0)
    make: dict[str, Callable[[], Tensor]] = {
        "multi_label": lambda: torch.randint(2, (23, 4), generator=generator),
        "single_label": lambda: torch.randint(4, (23,), generator=generator),
        "regression": lambda: torch.randn(23, generator=generator),
    }
    labels, logits = make[task.kind](), torch.randn(23, len(task.labels), generator=generator)
    metrics = build_metrics(task)
    for start in range(0, 23, 5):
        metrics.update(predictions(task, logits[start : start + 5]), labels[start : start + 5])
    whole = score(task, logits, labels)
    assert percentages(task, metrics) == pytest.approx(whole, abs=1e-4)
    assert task.key_score in whole


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CohenKappa", lambda labels, found: sklearn_metrics.cohen_kappa_score(labels, found)),
        (
            "FBetaScore(beta=0.5, average=weighted)",
            lambda labels, found: sklearn_metrics.fbeta_score(labels, found, beta=0.5, average="weighted"),
        ),
        ("MulticlassRecall", lambda labels, found: sklearn_metrics.balanced_accuracy_score(labels, found)),
    ],
)
def test_a_key_score_by_its_name_in_torchmetrics_is_scikit_learns(
    name: str, expected: Callable[[Tensor, Tensor], float]
) -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(60, 4, generator=generator), torch.randint(4, (60,), generator=generator)
    measured = score(Task("single_label", LABELS, name), logits, labels)
    assert measured[name] == pytest.approx(100 * expected(labels, logits.argmax(-1)), abs=1e-4)
    assert set(measured) == {name, *score(SINGLE, logits, labels)}


def test_named_scores_of_two_labels_and_of_numbers() -> None:
    labels, found = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 0])
    two = Task("single_label", ("no", "yes"), "BinaryRecall")
    assert score(two, torch.eye(2)[found], labels)["BinaryRecall"] == pytest.approx(100 * 2 / 3)
    values, predicted = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.5, 3.0])
    numbers = Task("regression", ("score",), "R2Score")
    assert score(numbers, predicted, values)["R2Score"] == pytest.approx(
        100 * sklearn_metrics.r2_score(values, predicted), abs=1e-3
    )


@pytest.mark.parametrize(
    ("written", "kind", "labels", "message"),
    [
        ("acuracy", "single_label", None, "did you mean accuracy.*no MulticlassAcuracy|did you mean accuracy"),
        ("CohenKapa", "single_label", None, "no MulticlassCohenKapa.*near: MulticlassCohenKappa"),
        ("AUROC", "single_label", None, "MulticlassAUROC does not take predicted labels"),
        ("ConfusionMatrix", "single_label", None, "more than one number"),
        ("HammingDistance", "single_label", None, "does not rise when predictions get better"),
        ("BinaryRecall", "single_label", 3, "BinaryRecall is of two labels; there are 3"),
        ("binary_f1", "single_label", 3, "binary_f1 is of two labels; there are 3"),
        ("FBetaScore(0.5)", "single_label", None, "expected arguments by name"),
        ("FBetaScore(beta=open)", "single_label", None, "does not take"),
        ("FBetaScore(beta=__import__('os'))", "single_label", None, "expected arguments by name"),
        ("FBetaScore(gamma=1, beta=1)", "single_label", None, "gamma"),
        ("os.system", "regression", None, "expected the name of a metric"),
        ("MeanAbsoluteError", "regression", None, "does not rise"),
    ],
)
def test_what_is_no_key_score_is_told(written: str, kind: str, labels: int | None, message: str) -> None:
    problem = key_score_problem(written, kind, labels)  # type: ignore[arg-type]
    assert problem is not None and re.search(message, problem), problem

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_models import log_probability, outcomes
from torch import Tensor

from regmean_lab.statistics import StatisticsError, output_factors
from regmean_lab.statistics.likelihood import count_terms

NONE = -100


def second_moment(logits: Tensor, kind: str) -> Tensor:
    """``E_y[s sᵀ]`` of one example by its definition: over all labels, with automatic derivatives of the score."""
    moment = torch.zeros(logits.numel(), logits.numel(), dtype=logits.dtype)
    for probability, label in outcomes(logits, kind):
        leaf = logits.clone().requires_grad_()
        (score,) = torch.autograd.grad(log_probability(leaf, label, kind), leaf)
        moment += probability * torch.outer(score, score)
    return moment


logit_rows = st.lists(st.floats(-30, 30), min_size=2, max_size=6)


@settings(max_examples=100, deadline=None)
@given(values=logit_rows)
def test_categorical_columns_factor_the_covariance(values: list[float]) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    factors = output_factors(logits, None, "categorical", "expectation")
    assert factors.shape == (len(values) - 1, 1, len(values))
    columns = factors[:, 0]
    torch.testing.assert_close(columns.T @ columns, second_moment(logits[0], "categorical"), rtol=1e-9, atol=1e-15)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-30, 30), min_size=1, max_size=5))
def test_bernoulli_columns_factor_the_covariance(values: list[float]) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    columns = output_factors(logits, None, "bernoulli", "expectation")[:, 0]
    torch.testing.assert_close(columns.T @ columns, second_moment(logits[0], "bernoulli"), rtol=1e-9, atol=1e-15)


def test_gaussian_columns_factor_the_covariance() -> None:
    logits = torch.tensor([[0.3, -2.0], [4.0, 1.0]], dtype=torch.float64)
    factors = output_factors(logits, None, "gaussian", "expectation")
    for example in range(2):
        columns = factors[:, example]
        torch.testing.assert_close(columns.T @ columns, second_moment(logits[example], "gaussian"))


def test_columns_of_a_squared_error_factor_the_covariance() -> None:
    """Of a Gaussian with variance 1/2, whose score 2 (y − z) has the variance 2."""
    logits = torch.tensor([[0.3, -2.0], [4.0, 1.0]], dtype=torch.float64)
    factors = output_factors(logits, None, "squared_error", "expectation")
    for example in range(2):
        columns = factors[:, example]
        torch.testing.assert_close(columns.T @ columns, 2 * torch.eye(2, dtype=torch.float64))


def test_two_classes_need_one_column() -> None:
    probabilities = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    (column,) = output_factors(probabilities.log(), None, "categorical", "expectation")
    size = torch.tensor([[math.sqrt(0.16)], [0.5]], dtype=torch.float64)
    torch.testing.assert_close(column, size * torch.tensor([[1.0, -1.0]], dtype=torch.float64))


def test_classes_of_probability_zero_have_no_part() -> None:
    inf = math.inf
    logits = torch.tensor(
        [[0.0, -inf, 1.0, -inf], [-inf, 2.0, -inf, -inf], [-inf, -inf, 0.5, 0.5], [900.0, 0.0, -900.0, -2000.0]]
    )
    factors = output_factors(logits, None, "categorical", "expectation")
    assert bool(factors.isfinite().all())
    probabilities = logits.softmax(-1)
    covariance = torch.diag_embed(probabilities) - probabilities.unsqueeze(2) * probabilities.unsqueeze(1)
    torch.testing.assert_close(torch.einsum("kbi,kbj->bij", factors, factors), covariance, rtol=1e-5, atol=1e-6)


def test_rare_classes_keep_their_relative_precision_in_float32() -> None:
    logits = torch.tensor([[0.0, -40.0, -41.0]])
    factors = output_factors(logits, None, "categorical", "expectation")[:, 0].double()
    probabilities = logits[0].double().softmax(0)
    others = (1 - torch.eye(3, dtype=torch.float64)) @ probabilities
    torch.testing.assert_close(factors.square().sum(0), probabilities * others, rtol=1e-4, atol=0)


def test_logits_that_are_not_a_number_stay_visible() -> None:
    logits = torch.tensor([[0.0, math.nan, 1.0]])
    for labels_from in ("expectation", "pseudo"):
        assert bool(output_factors(logits, None, "categorical", labels_from).isnan().any())


@pytest.mark.parametrize("kind", ["categorical", "bernoulli", "gaussian"])
def test_true_labels_give_the_score(kind: str) -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = {
        "categorical": torch.tensor([2, 0, NONE, 1]),
        "bernoulli": torch.tensor([[1, 0, NONE], [NONE, NONE, NONE], [0, 0, 1], [1, 1, 1]]),
        "gaussian": torch.tensor([[0.5, 1.0, -1.0]] * 4),
    }[kind]
    leaf = logits.clone().requires_grad_()
    value = sum(log_probability(row, label, kind) for row, label in zip(leaf, labels, strict=True))
    (expected,) = torch.autograd.grad(value, leaf)
    (column,) = output_factors(logits, labels, kind, "true")
    torch.testing.assert_close(column, expected)


def test_token_labels_give_the_score_of_all_tokens() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([[0, NONE, 3], [2, 2, NONE]])
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(log_probability(leaf.flatten(0, 1), labels.flatten(), "categorical"), leaf)
    (column,) = output_factors(logits, labels, "categorical", "true")
    torch.testing.assert_close(column, expected)
    assert not column[0, 1].any()


def test_pseudo_labels_are_the_most_probable_ones_where_annotated() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    pseudo = output_factors(logits, None, "categorical", "pseudo")
    torch.testing.assert_close(pseudo, output_factors(logits, torch.tensor([1, 0]), "categorical", "true"))
    annotated = output_factors(logits, torch.tensor([2, NONE]), "categorical", "pseudo")
    torch.testing.assert_close(annotated[0, 0], pseudo[0, 0])
    assert not annotated[0, 1].any()

    logits = torch.tensor([[-1.0, 2.0, 0.1]])
    pseudo = output_factors(logits, torch.tensor([[1, NONE, 0]]), "bernoulli", "pseudo")
    torch.testing.assert_close(pseudo, output_factors(logits, torch.tensor([[0, NONE, 1]]), "bernoulli", "true"))


def test_expectation_has_no_column_for_what_is_not_annotated() -> None:
    logits = torch.zeros(2, 3)
    factors = output_factors(logits, torch.tensor([[1, NONE, 0], [NONE, NONE, 1]]), "bernoulli", "expectation")
    assert factors.diagonal(dim1=0, dim2=2).tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.5]]
    factors = output_factors(logits, torch.tensor([NONE, 0]), "categorical", "expectation")
    assert not factors[:, 0].any()
    assert factors[:, 1].any()


def test_a_single_regression_output_takes_labels_with_or_without_its_dimension() -> None:
    for logits_shape in ((3,), (3, 1)):
        logits = torch.tensor([1.0, 2.0, 3.0]).reshape(logits_shape)
        for label_shape in ((3,), (3, 1)):
            labels = torch.tensor([1.5, 2.0, 1.0]).reshape(label_shape)
            factors = output_factors(logits, labels, "gaussian", "true")
            assert factors.shape == (1, *logits_shape)
            assert factors.flatten().tolist() == [0.5, 0.0, -2.0]
        assert output_factors(logits, None, "gaussian", "expectation").flatten().tolist() == [1.0, 1.0, 1.0]


def test_narrow_logits_are_computed_in_float32() -> None:
    logits = torch.zeros(1, 2, dtype=torch.bfloat16)
    assert output_factors(logits, None, "categorical", "expectation").dtype == torch.float32


def test_terms_of_a_mean_loss() -> None:
    assert count_terms(torch.zeros(3, 2), torch.tensor([1, NONE, 0]), "categorical") == 2
    assert count_terms(torch.zeros(2, 2, 5), torch.tensor([[1, NONE], [0, 4]]), "categorical") == 3
    assert count_terms(torch.zeros(2, 2), torch.tensor([[1, NONE], [0, 1]]), "bernoulli") == 3
    assert count_terms(torch.zeros(2, 2), None, "bernoulli") == 4
    assert count_terms(torch.zeros(2, 1), torch.zeros(2), "gaussian") == 2


@pytest.mark.parametrize(
    ("logits", "labels", "kind", "labels_from", "message"),
    [
        ((2, 3, 4), (2, 3), "categorical", "expectation", "use labels_from='true' or 'pseudo'"),
        ((2, 1), (2,), "gaussian", "pseudo", "use labels_from='expectation' or 'true'"),
        ((2, 3), None, "categorical", "true", "no labels"),
        ((2, 3), (2, 3), "categorical", "true", r"expected labels of shape \(2,\)"),
        ((2, 3), (2,), "bernoulli", "true", r"expected labels of shape \(2, 3\)"),
        ((2, 3), (3, 2), "gaussian", "true", r"expected labels of shape \(2, 3\)"),
        ((2, 1), (2,), "categorical", "true", "one class"),
        ((2,), (2,), "categorical", "true", "expected 2 to 3 dimensions"),
        ((2, 3, 4), (2, 3, 4), "bernoulli", "true", "expected 2 to 2 dimensions"),
        ((2, 3), (2,), "poisson", "true", "expected one of categorical, bernoulli, gaussian"),
        ((2, 3), (2,), "categorical", "some", "expected one of expectation, true, pseudo"),
    ],
)
def test_what_does_not_fit_is_told(
    logits: tuple[int, ...], labels: tuple[int, ...] | None, kind: str, labels_from: str, message: str
) -> None:
    values = None if labels is None else torch.zeros(labels, dtype=torch.long)
    with pytest.raises(StatisticsError, match=message):
        output_factors(torch.zeros(logits), values, kind, labels_from)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_outside_the_classes_are_told(wrong: int) -> None:
    with pytest.raises(StatisticsError, match=f"label {wrong} outside 0 to 2"):
        output_factors(torch.zeros(2, 3), torch.tensor([0, wrong]), "categorical", "true")


def test_real_labels_are_no_classes() -> None:
    with pytest.raises(StatisticsError, match="use gaussian"):
        output_factors(torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "categorical", "true")

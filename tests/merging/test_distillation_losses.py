"""What distillation minimises, against loops over numbers in float64 and SciPy's relative entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax

from regmean_lab.merging.distillation_losses import (
    anchor_penalty,
    hidden_difference,
    output_divergence,
    position_divergence,
)
from regmean_lab.metrics.divergence import Pair, divergence
from regmean_lab.suites.base import Task

Array = np.ndarray


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def categorical(student: Array, teacher: Array, temperature: float) -> float:
    return float(rel_entr(softmax(teacher / temperature), softmax(student / temperature)).sum())


def bernoulli(student: float, teacher: float, temperature: float) -> float:
    yes, other = expit(teacher / temperature), expit(student / temperature)
    return float(rel_entr(yes, other) + rel_entr(1 - yes, 1 - other))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
class TestAgainstSciPy:
    def test_one_label(self, temperature: float) -> None:
        student, teacher = drawn(5, 3), drawn(5, 3, seed=1)
        rows = [categorical(a, b, temperature) for a, b in zip(student.numpy(), teacher.numpy(), strict=True)]
        found = output_divergence(student, teacher, "categorical", temperature)
        assert float(found) == pytest.approx(temperature**2 * sum(rows) / 5, rel=1e-12)

    def test_several_labels_of_which_some_are_known(self, temperature: float) -> None:
        student, teacher, known = drawn(4, 3), drawn(4, 3, seed=1), [True, False, True]
        total = sum(
            bernoulli(float(student[i, j]), float(teacher[i, j]), temperature)
            for i in range(4)
            for j in range(3)
            if known[j]
        )
        found = output_divergence(student, teacher, "bernoulli", temperature, torch.tensor(known))
        assert float(found) == pytest.approx(temperature**2 * total / 4, rel=1e-12)

    def test_tokens_of_which_some_count(self, temperature: float) -> None:
        student, teacher = drawn(2, 4, 5), drawn(2, 4, 5, seed=1)
        counted = torch.tensor([[True, True, False, False], [True, False, True, True]])
        rows = [
            categorical(student[i, j].numpy(), teacher[i, j].numpy(), temperature)
            for i, j in counted.nonzero().tolist()
        ]
        found = output_divergence(student, teacher, "categorical", temperature, counted)
        assert float(found) == pytest.approx(temperature**2 * sum(rows) / 5, rel=1e-12)

    def test_where_an_answer_begins(self, temperature: float) -> None:
        student, teacher = drawn(2, 4), drawn(2, 4, seed=1)
        there = torch.tensor([[True, True, True, False], [True, True, True, True]])
        rows = [categorical(student[i][there[i]].numpy(), teacher[i][there[i]].numpy(), temperature) for i in range(2)]
        found = position_divergence(student, teacher, there, temperature)
        assert float(found) == pytest.approx(temperature**2 * sum(rows) / 2, rel=1e-12)

    def test_real_numbers_know_no_temperature(self, temperature: float) -> None:
        student, teacher = drawn(5, 1), drawn(5, 1, seed=1)
        wanted = sum((float(a) - float(b)) ** 2 for a, b in zip(student, teacher, strict=True)) / 5
        assert float(output_divergence(student, teacher, "gaussian", temperature)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "likelihood"), [("single_label", "categorical"), ("multi_label", "bernoulli"), ("regression", "gaussian")]
)
def test_at_temperature_1_it_is_what_results_measure(kind: str, likelihood: str) -> None:
    student, teacher = drawn(6, 4), drawn(6, 4, seed=1)
    pair = Pair(Task(kind, tuple("abcd"), "loss"), teacher, student, torch.zeros(6))  # type: ignore[arg-type]
    width = 4 if kind == "regression" else 1  # results take the mean over a regression's outputs, of which it has one
    found = output_divergence(student, teacher, likelihood)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(width * divergence(pair), rel=1e-12)


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian"])
def test_equal_outputs_have_no_divergence_and_no_gradient(likelihood: str) -> None:
    outputs = (100 * drawn(8, 3)).float()
    student = outputs.clone().requires_grad_()
    loss = output_divergence(student, outputs, likelihood, 2.0)  # type: ignore[arg-type]
    loss.backward()
    assert float(loss.detach()) == 0
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-6


def test_the_gradient_keeps_its_size_when_it_is_hot() -> None:
    """At a high temperature it tends to that of half the squared difference of centred outputs, by their number."""
    student, teacher = drawn(1, 4).requires_grad_(), drawn(1, 4, seed=1)
    output_divergence(student, teacher, "categorical", 1e6).backward()
    own, theirs = (row - row.mean() for row in (student.detach()[0], teacher[0]))
    assert student.grad is not None
    torch.testing.assert_close(student.grad[0], (own - theirs) / 4, rtol=1e-3, atol=1e-6)


def test_narrow_outputs_are_computed_wide() -> None:
    student, teacher = drawn(5, 3), drawn(5, 3, seed=1)
    found = output_divergence(student.bfloat16(), teacher.bfloat16(), "categorical")
    assert found.dtype == torch.float32
    wide = output_divergence(student.bfloat16().double(), teacher.bfloat16().double(), "categorical")
    assert float(found) == pytest.approx(float(wide), rel=1e-5)


def test_nothing_that_counts_is_no_divergence() -> None:
    student, teacher = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    assert float(output_divergence(student, teacher, "categorical", 1.0, torch.zeros(2, 3, dtype=torch.bool))) == 0


def test_hidden_states_relative_to_the_teacher() -> None:
    student, teacher = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    counted = torch.tensor([[True, True, False], [True, False, False]])
    rows = counted.nonzero().tolist()
    apart = sum((float(student[i, j, k]) - float(teacher[i, j, k])) ** 2 for i, j in rows for k in range(4))
    size = sum(float(teacher[i, j, k]) ** 2 for i, j in rows for k in range(4))
    assert float(hidden_difference(student, teacher, counted)) == pytest.approx(apart / size, rel=1e-12)
    # Padding may hold anything, and a scale that both have makes no difference.
    student[~counted], teacher[~counted] = 1e6, -1e6
    assert float(hidden_difference(3 * student, 3 * teacher, counted)) == pytest.approx(apart / size, rel=1e-12)
    assert float(hidden_difference(teacher, teacher, counted)) == 0


def test_the_anchor_is_half_the_squared_distance() -> None:
    values, start = [drawn(2, 3), drawn(4)], [drawn(2, 3, seed=1), drawn(4, seed=2)]
    wanted = sum(math.dist(a.flatten().tolist(), b.flatten().tolist()) ** 2 for a, b in zip(values, start, strict=True))
    assert float(anchor_penalty(values, start)) == pytest.approx(wanted / 2, rel=1e-12)

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_members import normal
from torch import Tensor

from regmean_lab.merging import MergeMember, Parameter
from regmean_lab.merging.counting import magnitude_threshold
from regmean_lab.merging.random_numbers import UniformNumbers
from regmean_lab.merging.task_vectors import drop_and_rescale, elect_and_average, keep_above

numbers = st.floats(-8, 8, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40])


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.lists(numbers, min_size=1, max_size=7), min_size=1, max_size=4), density=st.floats(0.01, 1))
def test_the_threshold_is_that_of_sorting(parts: list[list[float]], density: float) -> None:
    magnitudes = sorted((abs(torch.tensor(value).item()) for part in parts for value in part), reverse=True)
    count = max(1, math.ceil(density * len(magnitudes) - 1e-9))
    found = magnitude_threshold(lambda: [torch.tensor(part) for part in parts], density)
    assert found == magnitudes[count - 1]
    kept = sum(int((keep_above(torch.tensor(part), found) != 0).sum()) for part in parts)
    assert kept == sum(value >= found and value != 0 for value in magnitudes)


def test_the_threshold_of_a_large_vector_in_parts() -> None:
    whole = normal(0, 100_000).float()
    found = magnitude_threshold(lambda: whole.split(7_919), 0.2)
    assert found == float(whole.abs().sort(descending=True).values[19_999])
    assert int((keep_above(whole, found) != 0).sum()) == 20_000


def test_signs_are_elected_and_what_has_them_is_averaged() -> None:
    """Element by element, from the definition."""
    vectors = [normal(seed, 6, 5) for seed in range(4)]
    for vector in vectors:
        vector[vector.abs() < 0.6] = 0
    weights = [0.4, 1.6, 0.9, 1.1]
    result = elect_and_average(vectors, weights)
    for row in range(6):
        for column in range(5):
            values = [float(vector[row, column]) for vector in vectors]
            elected = math.copysign(1, sum(w * v for w, v in zip(weights, values, strict=True)))
            chosen = [(w, v) for w, v in zip(weights, values, strict=True) if v * elected > 0]
            expected = sum(w * v for w, v in chosen) / sum(w for w, _ in chosen) if chosen else 0.0
            assert float(result[row, column]) == pytest.approx(expected, rel=1e-14)


def test_where_no_sign_wins_there_is_nothing() -> None:
    vectors = [torch.tensor([1.0, 0.0, 2.0]), torch.tensor([-1.0, 0.0, -1.0])]
    assert elect_and_average(vectors, [1.0, 1.0]).tolist() == [0.0, 0.0, 2.0]


def uniform_numbers(seed: int, whole: Parameter, member: int) -> Tensor:
    return UniformNumbers(seed).of(whole, member)


def parameter(name: str = "w", members: tuple[str, ...] = ("a", "b"), rows: Tensor | None = None) -> Parameter:
    shape = (30, 40)
    tensors = [torch.zeros(shape if rows is None else (len(rows), 40)) for _ in members]
    return Parameter(
        name,
        tensors,
        [MergeMember(member, {name: torch.zeros(shape)}) for member in members],
        [1 / len(members)] * len(members),
        rows=rows,
    )


def test_random_numbers_depend_on_seed_parameter_and_member_only() -> None:
    first = uniform_numbers(3, parameter(), 0)
    assert torch.equal(first, uniform_numbers(3, parameter(), 0))
    assert torch.equal(first, uniform_numbers(3, parameter(members=("b", "c", "a")), 2))
    torch.rand(5)  # the global state has no part in it
    assert torch.equal(first, uniform_numbers(3, parameter(), 0))
    for other in (uniform_numbers(4, parameter(), 0), uniform_numbers(3, parameter("v"), 0)):
        assert not torch.equal(first, other)
    assert not torch.equal(first, uniform_numbers(3, parameter(), 1))


def test_rows_have_the_numbers_that_they_have_in_the_whole() -> None:
    rows = torch.tensor([4, 1, 29])
    whole = uniform_numbers(0, parameter(), 1)
    assert torch.equal(uniform_numbers(0, parameter(rows=rows), 1), whole[rows])


def test_random_numbers_are_uniform() -> None:
    drawn = torch.cat([uniform_numbers(seed, parameter(), 0).flatten() for seed in range(20)]).double()
    assert 0 <= float(drawn.min()) < 0.001
    assert 0.999 < float(drawn.max()) < 1
    for moment, expected in ((1, 1 / 2), (2, 1 / 3), (3, 1 / 4)):
        assert float((drawn**moment).mean()) == pytest.approx(expected, abs=0.01)


def test_what_is_not_dropped_is_scaled_up() -> None:
    vector = torch.tensor([1.0, -2.0, 3.0, 4.0])
    numbers = torch.tensor([0.1, 0.5, 0.49, 0.9])
    assert drop_and_rescale(vector, numbers, 0.5).tolist() == [0.0, -4.0, 0.0, 8.0]
    rates = torch.tensor([0.0, 0.5, 0.2, 0.95])
    torch.testing.assert_close(drop_and_rescale(vector, numbers, rates), torch.tensor([1.0, -4.0, 3.75, 0.0]))


def test_dropping_keeps_the_expectation() -> None:
    vector = normal(1, 8).abs() + 0.5
    rates = torch.linspace(0, 0.8, 8, dtype=torch.float64)
    drawn = torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.stack([drop_and_rescale(vector, row, rates) for row in drawn]).mean(0)
    deviations = vector * (rates / (1 - rates) / 20_000).sqrt()
    assert bool(((mean - vector).abs() <= 4.5 * deviations + 1e-12).all())

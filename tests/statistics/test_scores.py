"""Directions among scores, against projections and single contrasts in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regmean_lab.statistics import Scores, StatisticsError
from regmean_lab.statistics.scores import contrasts, directions


def batch(*rows: list[int], width: int = 5) -> dict[str, Tensor]:
    """Token ids with their mask."""
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def second_moment(columns: list[Tensor]) -> Tensor:
    """Σ c cᵀ of columns that are flattened."""
    flat = torch.stack([column.flatten().double() for column in columns])
    return flat.T @ flat


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_contrasts_span_all_but_the_ones(width: int) -> None:
    rows = contrasts(width)
    expected = torch.eye(width, dtype=torch.float64) - 1 / width
    torch.testing.assert_close(rows.T @ rows, expected)
    torch.testing.assert_close(rows @ rows.T, torch.eye(width - 1, dtype=torch.float64))


def test_of_two_labels_it_is_their_difference() -> None:
    (column,) = directions(Scores(torch.randn(3, 2, dtype=torch.float64), True), batch([1], [2], [3]), 4, 0)
    torch.testing.assert_close(column.abs(), torch.full((3, 2), 0.5**0.5, dtype=torch.float64))
    assert float(column.sum().abs()) < 1e-12


@pytest.mark.parametrize(("width", "invariant", "expected"), [(3, True, 2), (4, False, 4), (1, False, 1), (5, True, 4)])
def test_few_labels_are_exact(width: int, invariant: bool, expected: int) -> None:
    columns = list(directions(Scores(torch.randn(1, width, dtype=torch.float64), invariant), batch([1]), 4, 0))
    assert len(columns) == expected
    projection = torch.eye(width, dtype=torch.float64) - (1 / width if invariant else 0)
    torch.testing.assert_close(second_moment(columns), projection)


def test_one_real_value_an_example_may_lack_the_last_dimension() -> None:
    (column,) = directions(Scores(torch.randn(3), False), batch([1], [2], [3]), 4, 0)
    assert column.tolist() == [1.0, 1.0, 1.0]


def test_labels_that_are_not_annotated_do_not_count() -> None:
    counted = torch.tensor([[True, False, True], [False, False, False]])
    columns = list(directions(Scores(torch.randn(2, 3), False, counted), batch([1], [2]), 4, 0))
    assert len(columns) == 3
    assert second_moment([column[0] for column in columns]).diagonal().tolist() == [1.0, 0.0, 1.0]
    assert not torch.stack(columns)[:, 1].any()


def test_random_signs_have_the_projection_as_their_mean() -> None:
    """Two places of three labels, of which one counts whole and one lacks a label."""
    counted = torch.tensor([[[True, True, True], [True, False, True]]])
    scores = Scores(torch.randn(1, 2, 3, dtype=torch.float64), True, counted)
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[:3, :3] = torch.eye(3) - 1 / 3
    for one, other in ((3, 3), (5, 5), (3, 5), (5, 3)):
        expected[one, other] = 0.5 if one == other else -0.5
    found = second_moment(list(directions(scores, batch([1, 2]), 20000, 0)))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_signs_do_not_depend_on_the_rest_of_the_batch_nor_on_padding() -> None:
    values = torch.randn(2, 5, 9)
    both = batch([4, 5, 6], [7, 8, 9, 3])
    together = directions(Scores(values, True, both["attention_mask"]), both, 3, 1)
    alone = batch([4, 5, 6], width=3)
    single = directions(Scores(values[:1, :3], True, alone["attention_mask"]), alone, 3, 1)
    for whole, own in zip(together, single, strict=True):
        torch.testing.assert_close(whole[:1, :3], own)
        assert not whole[0, 3:].any()


def test_signs_depend_on_the_seed_and_on_the_tokens() -> None:
    values = torch.randn(1, 5, 9)
    one, other = batch([4, 5, 6, 7, 8]), batch([4, 5, 6, 7, 9])
    first = next(directions(Scores(values, False), one, 1, 0))
    assert torch.equal(first, next(directions(Scores(values, False), one, 1, 0)))
    assert not torch.equal(first, next(directions(Scores(values, False), one, 1, 1)))
    assert not torch.equal(first, next(directions(Scores(values, False), other, 1, 0)))
    assert set(first.abs().flatten().tolist()) == {1.0}


def test_examples_without_token_ids_are_told_apart_by_their_tensors() -> None:
    values = torch.randn(2, 3, 4)
    features = {"x": torch.tensor([[1.0, 2.0], [1.0, 2.5]]), "labels": torch.tensor([1, 0])}
    first, second = next(directions(Scores(values, False), features, 1, 0))
    assert not torch.equal(first, second)
    swapped = {"x": features["x"].flip(0), "labels": features["labels"]}
    assert torch.equal(next(directions(Scores(values, False), swapped, 1, 0)), torch.stack([second, first]))


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"counted: shape \(2,\) for scores of shape \(2, 3, 4\)"):
        next(directions(Scores(torch.randn(2, 3, 4), True, torch.ones(2)), batch([1], [2]), 1, 0))

"""What members keep beside a merge, against NumPy's decomposition in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from merging_members import LAYOUT, merged, normal, random_member
from torch import Tensor

from regmean_lab.merging import LinearLayer, MergeError
from regmean_lab.merging.followed_by import steps_of
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.residual import Residual, residual_of
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.towards_mean import TowardsMean

RANK_TWO: Any = [{"residual": {"rank": 2}}]


def nearest(difference: Tensor, rank: int) -> np.ndarray:
    """The nearest matrix of a rank, by all singular values."""
    left, values, right = np.linalg.svd(difference.double().numpy())
    best: np.ndarray = sum(values[r] * np.outer(left[:, r], right[r]) for r in range(min(rank, len(values))))
    return best


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 5, 50])
def test_it_is_the_nearest_matrix_of_its_rank(rank: int, transposed: bool) -> None:
    mean, own = normal(1, 7, 5), normal(2, 7, 5)
    part = Residual(rank).of(LinearLayer("x", transposed), mean, own)
    difference = (own - mean).T if transposed else own - mean
    np.testing.assert_allclose((part.left @ part.right).numpy(), nearest(difference, rank), atol=1e-5)
    assert part.rank == min(rank, 5)
    if rank >= 5:
        restored = mean + (part.left @ part.right).T if transposed else mean + part.left @ part.right
        torch.testing.assert_close(restored, own)


def test_of_a_member_that_is_the_merge_nothing_is_left() -> None:
    weight = normal(1, 4, 6)
    assert Residual().of(LinearLayer("x"), weight, weight.clone()).rank == 0


def test_a_matrix_that_cannot_be_decomposed_is_named() -> None:
    with pytest.raises(MergeError, match=r"encoder\.dense: what a member keeps of its own cannot be decomposed"):
        Residual().of(LinearLayer("encoder.dense"), torch.zeros(3, 3), torch.full((3, 3), torch.nan))


@pytest.mark.parametrize("method", [Simple(), RegMean()], ids=lambda method: method.name)
def test_the_merge_itself_is_as_without_it(method: Any) -> None:
    members = [random_member(1), random_member(2)]
    plain, found = merged(method, members), merged(replace(method, followed_by=RANK_TWO), members)
    assert found.keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in found.items())


def test_steps_before_it_change_the_merge() -> None:
    steps = [{"towards_mean": {"share": 0.25}}, "residual"]
    assert steps_of(steps) == [TowardsMean(0.25)]
    assert residual_of(steps) == Residual(8)
    assert residual_of(["svc"]) is None and residual_of([]) is None


@pytest.mark.parametrize(("followed_by", "one"), [([], True), (["svc"], True), (RANK_TWO, False), ("residual", False)])
def test_a_merge_with_residuals_is_not_one_model(followed_by: Any, one: bool) -> None:
    method = Simple(followed_by=followed_by)
    assert method.is_one_model is one
    assert not method.is_partial
    assert method.reads_base is ("svc" in followed_by)


def test_layers_below_the_head_have_it() -> None:
    head = [name for name in LAYOUT.linear if name.startswith("head")]
    assert head
    names = [*LAYOUT.linear, "embedding.weight"]
    found = Residual().layers(names, LAYOUT, head)
    assert found == {name: layer for name, layer in LAYOUT.linear.items() if name not in head}
    assert Residual().layers(names[:1], LAYOUT, names[:1]) == {}


def test_how_much_is_kept_is_told() -> None:
    note = Residual(3).note([(4, 6), (2, 10)])
    assert note == "each member keeps a residual of rank 3 of 2 linear layers, at most 54 numbers"  # 3 (4+6) + 2 (2+10)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([{"residual": {"rank": 0}}], "followed_by.residual.rank: expected at least 1, got 0"),
        ([{"residual": {"rank": 1.5}}], "followed_by.residual.rank: expected a whole number, got 1.5"),
        ([{"residual": {"rang": 1}}], "followed_by.residual.rang: no such setting; did you mean rank?"),
        (["residual", "towards_mean"], "followed_by: residual is what members keep beside the finished merge"),
        (["residual", {"residual": {"rank": 2}}], "followed_by: residual is what members keep beside the finished"),
    ],
)
def test_what_makes_no_sense_is_told(given: Any, problem: str) -> None:
    (found,) = Simple(followed_by=given).problems()
    assert found.startswith(problem)

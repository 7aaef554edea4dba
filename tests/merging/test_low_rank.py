"""Truncated decompositions against NumPy in float64, and the core space against sums of whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from regmean_lab.merging.low_rank import CoreSpace, truncated


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_nearest_matrix_of_a_rank(shape: tuple[int, int], rank: int) -> None:
    """Eckart and Young: the error is the root of the sum of the squares of the other singular values."""
    matrix = drawn(*shape)
    found = truncated(matrix, rank)
    left, values, right = np.linalg.svd(matrix.numpy().astype(np.float64), full_matrices=False)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    assert (found.left.shape, found.right.shape) == ((shape[0], rank), (rank, shape[1]))
    assert found.left.dtype == torch.float32
    np.testing.assert_allclose((found.left.double() @ found.right.double()).numpy(), best, atol=2e-6)
    error = np.linalg.norm(matrix.numpy() - (found.left @ found.right).numpy())
    np.testing.assert_allclose(error, np.sqrt((values[rank:] ** 2).sum()), atol=3e-6)
    np.testing.assert_allclose((found.squares, found.kept), ((values**2).sum(), (values[:rank] ** 2).sum()), rtol=1e-6)
    # Both factors are of one size.
    np.testing.assert_allclose(found.left.norm(dim=0), found.right.norm(dim=1), rtol=1e-5)


def test_what_is_zero_has_no_factors() -> None:
    matrix = drawn(6, 2).double() @ drawn(2, 5, seed=1).double()
    assert truncated(matrix, 4).rank == 2
    nothing = truncated(torch.zeros(3, 4), 2)
    assert (nothing.rank, nothing.squares, nothing.kept) == (0, 0.0, 0.0)


class TestCoreSpace:
    """Adapters of ranks 2, 3 and 1 of a layer with 9 outputs and 8 inputs."""

    factors = tuple((drawn(9, rank, seed=rank), drawn(rank, 8, seed=10 + rank)) for rank in (2, 3, 1))
    weights = (0.5, -1.0, 2.0)

    def test_cores_are_the_changes(self) -> None:
        space = CoreSpace(self.factors)
        assert space.shape == (6, 6)
        for number, (b, a) in enumerate(self.factors):
            change = space.left @ space.core(number) @ space.right
            np.testing.assert_allclose(change, b.double() @ a.double(), atol=1e-10)
            assert torch.allclose(space.left.T @ space.left, torch.eye(6, dtype=torch.float64), atol=1e-12)

    def test_a_linear_combination_of_cores_is_that_of_the_changes(self) -> None:
        space = CoreSpace(self.factors)
        merged = space.truncated(sum(w * space.core(n) for n, w in enumerate(self.weights)), 6)
        whole = sum(w * (b.double() @ a.double()) for w, (b, a) in zip(self.weights, self.factors, strict=True))
        np.testing.assert_allclose((merged.left.double() @ merged.right.double()).numpy(), whole, atol=1e-5)
        assert merged.kept == pytest.approx(float(whole.square().sum()))

    def test_a_truncated_core_is_the_truncated_change(self) -> None:
        space = CoreSpace(self.factors)
        merged = space.truncated(sum(w * space.core(n) for n, w in enumerate(self.weights)), 2)
        whole = sum(w * (b.double() @ a.double()) for w, (b, a) in zip(self.weights, self.factors, strict=True))
        left, values, right = np.linalg.svd(whole.numpy())
        best = left[:, :2] * values[:2] @ right[:2]
        np.testing.assert_allclose((merged.left.double() @ merged.right.double()).numpy(), best, atol=1e-5)
        assert merged.kept / merged.squares == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())

    def test_directions_in_common_are_there_once(self) -> None:
        b, a = self.factors[0]
        space = CoreSpace([(b, a), (2 * b, a), (0 * b, a)])
        assert space.shape == (2, 2)
        assert torch.allclose(space.core(1), 2 * space.core(0))
        assert not space.core(2).any()

    def test_adapters_that_were_not_trained_have_no_core(self) -> None:
        assert CoreSpace([(torch.zeros(4, 2), drawn(2, 3))]).shape[0] == 0

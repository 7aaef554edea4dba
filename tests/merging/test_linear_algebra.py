from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regmean_lab.merging import linear_algebra
from regmean_lab.merging.linear_algebra import (
    FLOAT64_LIMIT,
    PositiveSystem,
    condition_bound,
    off_diagonal_share,
    scale_off_diagonal,
    solve_device,
    solve_dtype,
    solve_in_range,
    solve_positive,
)


def gram(rows: int, size: int, seed: int, rank: int | None = None) -> Tensor:
    """A float64 Gram matrix, mean over random rows, of the given rank."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(rows, rank or size, generator=generator, dtype=torch.float64)
    if rank is not None:
        data = data @ torch.randn(rank, size, generator=generator, dtype=torch.float64)
    return data.T @ data / rows


def scaled_pseudo_inverse(matrix: Tensor, right: Tensor, cutoff: float) -> Tensor:
    """NumPy's pseudo-inverse of the matrix scaled to a unit diagonal, applied to the right-hand side."""
    scale = 1 / np.sqrt(matrix.diagonal().numpy())
    inverse = np.linalg.pinv(scale[:, None] * matrix.numpy() * scale, rcond=cutoff, hermitian=True)
    return torch.from_numpy(scale[:, None] * (inverse @ (scale[:, None] * right.numpy())))


@pytest.mark.parametrize("rows_at_a_time", [3, 1024])
@pytest.mark.parametrize(("size", "rank"), [(1, None), (7, None), (7, 2)])
def test_the_mean_squared_eigenvalue_is_below_the_condition_number(
    size: int, rank: int | None, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_algebra, "_SOLVED_ROWS", rows_at_a_time)
    seen = gram(50, size, 3, rank) * torch.logspace(-6, 6, size)[:, None] * torch.logspace(-6, 6, size)
    matrix = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    matrix[1:, 1:] = seen  # the first feature was never seen
    scale = 1 / np.sqrt(seen.diagonal().numpy())
    eigenvalues = np.linalg.eigvalsh(scale[:, None] * seen.numpy() * scale)

    bound = condition_bound(matrix)

    assert bound == pytest.approx(np.mean(eigenvalues**2))
    assert bound is not None
    assert bound >= 1 - 1e-9
    assert bound <= (1 + 1e-9) * eigenvalues.max() / max(eigenvalues.min(), 0.0) if rank is None else bound > 1
    assert condition_bound(torch.zeros(2, 2)) is None


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 12), columns=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_solves_a_regular_system_exactly(size: int, columns: int, seed: int) -> None:
    matrix = gram(8 * size + 8, size, seed)
    right = torch.randn(size, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = np.linalg.solve(matrix.numpy(), right.numpy())
    solution = solve_positive(matrix.clone(), right.clone())
    np.testing.assert_allclose(solution.value.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert (solution.jitter, solution.unseen) == (0, 0)


def test_features_of_any_scale_count_alike() -> None:
    """A feature that is a millionth of the others is solved for as exactly as they are, without any jitter."""
    scale = torch.tensor([1.0, 1e-6, 1e3, 1e-9], dtype=torch.float64)
    plain = gram(50, 4, 0)
    target = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    solution = solve_positive(plain * scale * scale[:, None], scale[:, None] * (plain @ target), torch.float32)
    torch.testing.assert_close(scale[:, None] * solution.value, target, rtol=1e-12, atol=0)
    assert solution.jitter == 0


def test_rows_of_zeros_are_solved_by_zero() -> None:
    matrix = gram(30, 5, 1)
    matrix[[1, 3]] = 0
    matrix[:, [1, 3]] = 0
    right = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    seen = [0, 2, 4]
    expected = np.linalg.solve(matrix[seen][:, seen].numpy(), right[seen].numpy())
    solution = solve_positive(matrix.clone(), right.clone())
    np.testing.assert_allclose(solution.value[seen].numpy(), expected, rtol=1e-11)
    assert torch.equal(solution.value[[1, 3]], torch.zeros(2, 2, dtype=torch.float64))
    assert solution.unseen == 2


def test_nothing_seen_at_all() -> None:
    solution = solve_positive(torch.zeros(3, 3), torch.zeros(3, 2))
    assert torch.equal(solution.value, torch.zeros(3, 2))
    assert (solution.unseen, solution.jitter) == (3, 0)


@pytest.mark.parametrize(("size", "rank"), [(4, 3), (16, 15), (16, 8), (64, 40), (64, 63)])
@pytest.mark.parametrize("seed", range(3))
def test_a_singular_system_is_solved_as_by_a_pseudo_inverse(size: int, rank: int, seed: int) -> None:
    matrix = gram(4 * size, size, seed, rank)
    generator = torch.Generator().manual_seed(seed)
    right = matrix @ torch.randn(size, 3, generator=generator, dtype=torch.float64)
    solution = solve_positive(matrix.clone(), right.clone())
    expected = scaled_pseudo_inverse(matrix, right, 1e-9)
    assert solution.jitter == 1e-10
    assert float((solution.value - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize(("size", "rank"), [(16, 8), (64, 32), (128, 50)])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_of_entries_does_not_decide_in_directions_that_are_open(size: int, rank: int, seed: int) -> None:
    """Statistics are kept in float32: what rounding adds to a singular matrix must not look like data."""
    exact = gram(4 * size, size, seed, rank)
    rounded = exact.float().double()
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    # Two members' right-hand side: each member's own rounding is in its own product.
    right = rounded @ target
    expected = scaled_pseudo_inverse(exact, exact @ target, 1e-9)
    solution = solve_positive(rounded.clone(), right.clone(), torch.float32)
    assert solution.jitter >= 1e-5
    assert float((solution.value - expected).norm() / expected.norm()) < 0.05


def test_condition_is_that_of_the_matrix_with_a_unit_diagonal() -> None:
    matrix = torch.tensor([[4.0, 1.9], [1.9, 1.0]], dtype=torch.float64)  # correlation 0.95
    solution = solve_positive(matrix, torch.ones(2, 1, dtype=torch.float64))
    assert solution.condition == pytest.approx(1.95 / 0.05, rel=1e-3)


def test_an_indefinite_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive semi-definite"):
        solve_positive(torch.tensor([[1.0, 3.0], [3.0, 1.0]]), torch.ones(2, 1))
    with pytest.raises(ValueError, match="not positive semi-definite"):
        solve_positive(torch.diag(torch.tensor([1.0, -1.0])), torch.ones(2, 1))


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_off_diagonal_entries_are_scaled(factor: float) -> None:
    matrix = gram(20, 4, 0)
    scaled = scale_off_diagonal(matrix, factor)
    for row in range(4):
        for column in range(4):
            expected = matrix[row, column] * (1 if row == column else factor)
            assert float(scaled[row, column]) == pytest.approx(float(expected), rel=1e-15)


def test_share_of_the_off_diagonal() -> None:
    assert off_diagonal_share(torch.tensor([[3.0, 1.0], [2.0, 0.0]])) == pytest.approx(5 / 14)
    assert off_diagonal_share(torch.eye(3)) == 0
    assert off_diagonal_share(torch.zeros(2, 2)) == 0


@pytest.mark.parametrize(
    ("capability", "fast"),
    [
        ((7, 0), True),
        ((8, 0), True),
        ((9, 0), True),
        ((10, 0), True),
        ((7, 5), False),
        ((8, 9), False),
        ((12, 0), False),
    ],
)
def test_solves_in_float64_where_that_is_cheap(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert solve_dtype(torch.device("cpu"), 100_000) == torch.float64
    assert solve_dtype(torch.device("cuda"), FLOAT64_LIMIT) == torch.float64
    assert solve_dtype(torch.device("cuda"), FLOAT64_LIMIT + 1) == (torch.float64 if fast else torch.float32)
    assert solve_dtype(torch.device("mps"), 10) == torch.float32
    assert solve_device(torch.device("mps")) == torch.device("cpu")
    assert solve_device(torch.device("cuda")) == torch.device("cuda")


def alike(size: int, share: float) -> Tensor:
    """A matrix like the sums of real statistics: a large common part, a falling spectrum, a factor off the diagonal."""
    generator = torch.Generator().manual_seed(size)
    rows = torch.randn(4 * size, size, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, size)
    return scale_off_diagonal((rows + 3).T @ (rows + 3), share)


@pytest.mark.parametrize("share", [0.9, 0.95])
def test_a_refined_solution_is_that_of_float64(share: float) -> None:
    """A float32 factor alone is wrong by more than 1e-5 here; refined, the solution is as good as any of float64."""
    matrix = alike(300, share)
    generator = torch.Generator().manual_seed(1)
    expected = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    right = matrix @ expected
    rough = torch.linalg.solve(matrix.float(), right.float()).double()
    assert float((rough - expected).norm() / expected.norm()) > 1e-5
    for refine in (False, True):
        solution = solve_positive(matrix.clone(), right.clone(), torch.float32, refine=refine)
        assert float((solution.value - expected).norm() / expected.norm()) < 1e-10
        assert solution.jitter == 0
    assert PositiveSystem(alike(300, share), refine=True).is_refined
    assert not PositiveSystem(alike(300, 1.0), refine=True).is_refined


def test_what_refinement_cannot_solve_is_factorised_in_float64() -> None:
    """The least eigenvalue is 1e-7, which float32 cannot tell from nothing."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0]
    matrix = vectors @ torch.diag(torch.logspace(0, -7, 40, dtype=torch.float64)) @ vectors.T
    expected = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    solution = solve_positive(matrix.clone(), matrix @ expected, refine=True)
    assert float((solution.value - expected).norm() / expected.norm()) < 1e-6


class TestSolveInRange:
    @pytest.mark.parametrize("rank", [1, 3, 6])
    def test_is_the_pseudo_inverse(self, rank: int) -> None:
        """Of features whose scales differ by six orders of magnitude."""
        generator = torch.Generator().manual_seed(rank)
        rows = torch.randn(rank, 6, generator=generator, dtype=torch.float64) * torch.logspace(0, -3, 6).double()
        matrix = rows.T @ rows
        right = matrix @ torch.randn(6, 2, generator=generator, dtype=torch.float64)
        found = solve_in_range(matrix.clone(), right)
        torch.testing.assert_close(matrix @ found.value, right, rtol=1e-4, atol=1e-9)
        # Nothing outside of the range.
        outside = torch.linalg.svd(rows).Vh[rank:]
        assert float((outside @ found.value).abs().sum()) < 1e-3 * float(found.value.norm())

    def test_of_zeros_is_zero(self) -> None:
        found = solve_in_range(torch.zeros(3, 3).double(), torch.ones(3, 2).double())
        assert not found.value.any() and found.unseen == 3

    def test_an_indefinite_matrix_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not positive semi-definite"):
            solve_in_range(torch.diag(torch.tensor([1.0, -0.5])).double(), torch.ones(2, 1).double())

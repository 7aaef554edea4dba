from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from regmean_lab.statistics import rank_k
from regmean_lab.statistics.products import add_gram_, mirror_upper_
from regmean_lab.statistics.rank_k import has_rank_k_update, rank_k_update_


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 40), rows=st.integers(1, 9), seed=st.integers(0, 9))
def test_the_update_is_the_upper_triangle_of_the_product(width: int, rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    start = torch.randn(width, width, generator=generator, dtype=torch.float64)
    total = start.clone()
    assert rank_k_update_(total, matrix) is total
    torch.testing.assert_close(total.triu(), (start + matrix.T @ matrix).triu(), rtol=1e-12, atol=1e-12)
    assert torch.equal(total.tril(-1), start.tril(-1))


def test_float32_sums_are_as_precise_as_products() -> None:
    rows = torch.randn(700, 300, generator=torch.Generator().manual_seed(0))
    total = mirror_upper_(add_gram_(torch.zeros(300, 300), rows))
    exact = rows.double().T @ rows.double()
    torch.testing.assert_close(total.double(), exact, rtol=1e-4, atol=2e-4)


def test_values_that_are_not_finite_stay_visible() -> None:
    rows = torch.ones(3, 4)
    rows[1, 2] = torch.nan
    total = mirror_upper_(rank_k_update_(torch.zeros(4, 4), rows))
    assert torch.equal(total.isnan(), torch.tensor([[i == 2 or j == 2 for j in range(4)] for i in range(4)]))


def test_it_is_used_where_one_thread_has_whole_matrices() -> None:
    rows, total = torch.ones(3, 4), torch.zeros(4, 4)
    assert has_rank_k_update(total, rows)
    assert not has_rank_k_update(total, rows[:0])
    assert not has_rank_k_update(total, rows.bfloat16())
    assert not has_rank_k_update(total.double(), rows)
    assert not has_rank_k_update(total, torch.ones(4, 3).T)
    assert not has_rank_k_update(torch.zeros(4, 8)[:, :4], rows)
    assert not has_rank_k_update(total.to("meta"), rows.to("meta"))


def test_several_threads_compute_blocks(two_threads: None) -> None:
    rows, total = torch.ones(3, 4), torch.zeros(4, 4)
    assert not has_rank_k_update(total, rows)
    assert torch.equal(mirror_upper_(add_gram_(total, rows)), torch.full((4, 4), 3.0))


def test_the_threads_of_blas_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    before = [library.get_num_threads() for library in libraries]
    seen: list[list[int]] = []
    routine = rank_k._routine(torch.float32)

    def watched(*args: object, **kwargs: object) -> None:
        seen.append([library.get_num_threads() for library in libraries])
        routine(*args, **kwargs)

    monkeypatch.setattr(rank_k, "_routine", lambda dtype: watched)
    try:
        for library in libraries:
            library.set_num_threads(2)
        rank_k_update_(torch.zeros(4, 4), torch.ones(3, 4))
        after = [library.get_num_threads() for library in libraries]
    finally:
        for library, count in zip(libraries, before, strict=True):
            library.set_num_threads(count)
    assert seen == [[1] * len(libraries)]
    assert after == [2] * len(libraries)

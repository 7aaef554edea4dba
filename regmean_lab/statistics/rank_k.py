"""Symmetric rank-k updates by the BLAS of SciPy: half the arithmetic of a product, where PyTorch has no such call.

Only for one thread: the threads of two libraries that compute in turns wait for their next work on the same cores,
which costs more than the update saves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from threadpoolctl import LibController, ThreadpoolController
from torch import Tensor

_ROUTINES = {torch.float32: "ssyrk", torch.float64: "dsyrk"}


def can_update(rows: Tensor) -> bool:
    """Whether `rank_k_update_` should be used for rows like these, given a sum of their dtype."""
    return rows.device.type == "cpu" and torch.get_num_threads() == 1 and rows.dtype in _ROUTINES


def has_rank_k_update(total: Tensor, rows: Tensor) -> bool:
    """Whether `rank_k_update_` can and should be used for this sum ``[in, in]`` and these rows ``[rows, in]``."""
    return (
        can_update(rows)
        and rows.dtype == total.dtype
        and rows.is_contiguous()
        and total.is_contiguous()
        and len(rows) > 0
    )


def rank_k_update_(total: Tensor, rows: Tensor) -> Tensor:
    """Add the upper triangle of ``rowsᵀ rows`` to ``total``, in place, in one thread.

    Args:
        total: ``[in, in]``, contiguous; what lies below its diagonal is left as it is.
        rows: ``[rows, in]``, contiguous, of the same dtype, float32 or float64, on the CPU.

    Returns:
        ``total``.
    """
    with _one_thread():
        # What BLAS takes for a matrix by columns is the transposed one by rows, whose lower triangle is the upper one.
        update, columns, sums = _routine(rows.dtype), rows.detach().numpy().T, total.detach().numpy().T
        update(1.0, columns, beta=1.0, c=sums, lower=1, overwrite_c=1)
    return total


@cache
def _routine(dtype: torch.dtype) -> Callable[..., Any]:
    # Imported here: SciPy's linear algebra takes its time, and not every command collects statistics.
    from scipy.linalg import blas

    routine: Callable[..., Any] = getattr(blas, _ROUTINES[dtype])
    return routine


@contextmanager
def _one_thread() -> Iterator[None]:
    """With one thread of each BLAS that has its own setting."""
    before = [(library, count) for library in _libraries() if (count := library.get_num_threads()) != 1]
    for library, _ in before:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, count in before:
            library.set_num_threads(count)


@cache
def _libraries() -> list[LibController]:
    _routine(torch.float32)  # only what is loaded is found
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)

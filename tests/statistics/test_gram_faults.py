from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from regmean_lab.statistics.gram_faults import gram_fault


def gram(width: int, rows: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    inputs = torch.randn(rows or 3 * width, width, generator=torch.Generator().manual_seed(0)) + 0.5
    return (inputs.T @ inputs / len(inputs)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("width", "rows"), [(1, 1), (30, None), (30, 2), (1500, 10)])
def test_gram_matrices_have_none(dtype: torch.dtype, width: int, rows: int | None) -> None:
    matrix = gram(width, rows, dtype)
    assert gram_fault(matrix) is None
    # Features that are always zero, and features of other sizes.
    matrix[0], matrix[:, 0] = 0, 0
    assert gram_fault(matrix) is None or width == 1
    scale = torch.logspace(-3, 2, width).to(dtype)
    assert gram_fault(gram(width, rows, dtype) * scale * scale[:, None]) is None


def changed(row: int, column: int, value: float) -> Tensor:
    matrix = gram(1500)
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (changed(1200, 3, float("nan")), "NaN or infinity"),
        (changed(1200, 3, float("inf")), "NaN or infinity"),
        (changed(1200, 3, 0.9), "not symmetric: entry 3, 1200 is .*, and mirrored 0.9"),
        (changed(1400, 1400, -1.0), "no negative number on its diagonal, and this has 1"),
        (torch.zeros(3, 3), "its diagonal is zero"),
        (torch.tensor([[1.0, 3.0], [3.0, 4.0]]), "entry 0, 1 is 3, and its diagonal allows 2"),
        (torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).add(torch.eye(8) * 9), "not symmetric"),
    ],
)
def test_others_have_one(matrix: Tensor, expected: str) -> None:
    fault = gram_fault(matrix)
    assert fault is not None
    assert re.search(expected, fault)

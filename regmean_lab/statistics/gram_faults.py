"""Whether a matrix that somebody else has measured can be a Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from .finite import all_finite

ROWS = 1024
"""Rows that are compared at a time, so that nothing of the matrix's own size is made."""

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
"""Rounding errors by dtype, relative to the bound of an entry; of half-precision numbers :data:`HALF`."""

HALF = 2e-2


def gram_fault(matrix: Tensor) -> str | None:
    """Why a square matrix cannot be the mean of products ``x xᵀ``, as far as a pass over its entries tells.

    Looked at are finiteness, the diagonal, symmetry, and every principal minor of two rows: of a Gram matrix
    ``|G_ij| ≤ √(G_ii G_jj)`` (Cauchy and Schwarz). Larger minors are not looked at.

    Args:
        matrix: ``[n, n]``, floating point.

    Returns:
        The fault in words, or None.
    """
    if not all_finite(matrix):
        return "NaN or infinity in it"
    wide = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    diagonal = matrix.diagonal().to(wide)
    if bool((diagonal < 0).any()):
        return f"a Gram matrix has no negative number on its diagonal, and this has {int((diagonal < 0).sum())}"
    if not bool(diagonal.any()):
        return "its diagonal is zero"
    tolerance, scale = TOLERANCE.get(matrix.dtype, HALF), diagonal.sqrt()
    smallest = torch.finfo(matrix.dtype).tiny
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS].to(wide)
        columns = matrix[:, start : start + ROWS].T.to(wide)
        bound = scale[start : start + ROWS, None] * scale
        # Numbers below the smallest normal one are rounded to a fixed step.
        if (place := _first((rows - columns).abs() > tolerance * bound + smallest)) is not None:
            one, other = float(rows[place]), float(columns[place])
            return f"it is not symmetric: {_entry(place, start)} is {one:.6g}, and mirrored {other:.6g}"
        if (place := _first(rows.abs() > (1 + tolerance) * bound + smallest)) is not None:
            return (
                f"it is no Gram matrix: {_entry(place, start)} is {float(rows[place]):.6g}, and its diagonal allows "
                f"{float(bound[place]):.6g}"
            )
    return None


def _first(wrong: Tensor) -> tuple[int, int] | None:
    places = wrong.nonzero()
    return (int(places[0, 0]), int(places[0, 1])) if len(places) else None


def _entry(place: tuple[int, int], start: int) -> str:
    return f"entry {place[0] + start}, {place[1]}"

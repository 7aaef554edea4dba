"""Forms in which a Gram matrix is stored: whole, its upper triangle, its diagonal, or low rank plus diagonal.

A symmetric matrix G ``[n, n]`` is stored, by form, as

- ``full``: G itself;
- ``packed``: its upper triangle, row after row, ``[n (n + 1) / 2]``: half the bytes, nothing lost;
- ``diagonal``: its diagonal, ``[n]``;
- ``low_rank``: its diagonal and factors F ``[n, rank]``; what is read is F Fᵀ with the diagonal of G.

The factors are those of the best approximation of that rank (in the Frobenius norm: Eckart and Young, 1936) of G scaled
to a unit diagonal, C = D^(-1/2) G D^(-1/2), because a merge gives the same weights whatever the features' scales are:
F = D^(1/2) V Λ^(1/2) with the largest eigenvalues Λ of C and their eigenvectors V. The approximation never exceeds C
(C − V Λ Vᵀ has no negative eigenvalue, and so no negative diagonal entry); setting its diagonal to that of G adds a
diagonal matrix without negative entries. So what is read is positive semi-definite, and its diagonal is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from .errors import StatisticsError
from .products import mirror_upper_

Form: TypeAlias = Literal["full", "packed", "diagonal", "low_rank"]
"""How a Gram matrix is stored."""

FORMS: tuple[Form, ...] = get_args(Form)

FACTORS = ":factors"
"""What follows a layer's name in the name of the tensor of its factors."""


def stored_numbers(width: int, form: Form, rank: int | None = None) -> int:
    """How many numbers a matrix of so many rows and columns is stored as; ``rank`` is of the form ``low_rank``."""
    if form == "low_rank":
        assert rank is not None
        return width * (1 + min(rank, width))
    return {"full": width * width, "packed": width * (width + 1) // 2, "diagonal": width}[form]


def pack_upper(matrix: Tensor) -> Tensor:
    """The upper triangle ``[n (n + 1) / 2]`` of a symmetric matrix ``[n, n]``, row after row; its dtype and device."""
    width = len(matrix)
    packed = matrix.new_empty(width * (width + 1) // 2)
    start = 0
    for row in range(width):
        packed[start : start + width - row] = matrix[row, row:]
        start += width - row
    return packed


def unpack_upper(packed: Tensor) -> Tensor:
    """The symmetric matrix ``[n, n]`` whose upper triangle `pack_upper` made.

    Raises:
        StatisticsError: if no matrix has a triangle of this length.
    """
    width = packed_width(len(packed))
    if width is None:
        raise StatisticsError(f"{len(packed)} numbers do not make a triangle of a matrix")
    matrix = packed.new_zeros(width, width)
    start = 0
    for row in range(width):
        matrix[row, row:] = packed[start : start + width - row]
        start += width - row
    return mirror_upper_(matrix)


def packed_width(length: int) -> int | None:
    """The width of the matrix whose upper triangle has ``length`` numbers; None if there is none."""
    width = (isqrt(8 * length + 1) - 1) // 2
    return width if width * (width + 1) // 2 == length else None


def low_rank_factors(matrix: Tensor, rank: int) -> Tensor:
    """The factors of a positive semi-definite matrix, see the head of this module.

    Args:
        matrix: ``[n, n]``, symmetric; a feature that is always zero has a row and a column of zeros.
        rank: how many, at least 1; more than ``n`` are as many as ``n``.

    Returns:
        ``[n, min(rank, n)]``, computed in float64, in the dtype of ``matrix``.
    """
    exact = matrix.double()
    scale = exact.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0)
    values, vectors = torch.linalg.eigh(exact * inverse * inverse[:, None])  # ascending
    values, vectors = values[-rank:].clamp(min=0), vectors[:, -rank:]
    return (vectors * values.sqrt() * scale[:, None]).flip(1).to(matrix.dtype)


def from_low_rank(diagonal: Tensor, factors: Tensor) -> Tensor:
    """The matrix ``[n, n]`` with this diagonal ``[n]``, and elsewhere the product of the factors ``[n, rank]``."""
    matrix = mirror_upper_(factors @ factors.T)  # several threads may round its two halves differently
    matrix.diagonal().copy_(diagonal)
    return matrix


def to_form(name: str, matrix: Tensor, form: Form, rank: int | None = None) -> dict[str, Tensor]:
    """The tensors that a symmetric matrix ``[n, n]`` is stored as, by name."""
    if form == "full":
        return {name: matrix}
    if form == "packed":
        return {name: pack_upper(matrix)}
    tensors = {name: matrix.diagonal().clone()}
    if form == "low_rank":
        assert rank is not None
        tensors[name + FACTORS] = low_rank_factors(matrix, rank)
    return tensors


def from_form(name: str, form: Form, read: Callable[[str], Tensor]) -> Tensor:
    """The matrix ``[n, n]`` of the tensors that `to_form` made, which ``read`` reads by name."""
    if form == "full":
        return read(name)
    if form == "packed":
        return unpack_upper(read(name))
    if form == "diagonal":
        return torch.diag(read(name))
    return from_low_rank(read(name), read(name + FACTORS))


def tensor_names(name: str, form: Form) -> list[str]:
    """The names of the tensors that a matrix is stored as."""
    return [name, name + FACTORS] if form == "low_rank" else [name]


def shape_fault(name: str, form: Form, shape_of: Callable[[str], list[int]]) -> str | None:
    """What is wrong with the shapes of the tensors that a matrix is stored as, or None.

    Args:
        name: the matrix.
        form: how it is stored.
        shape_of: the shape of a tensor by its name.
    """
    shape = shape_of(name)
    if form == "full":
        sound, expected = len(shape) == 2 and shape[0] == shape[1], "a square"
    elif form == "packed":
        sound, expected = len(shape) == 1 and packed_width(shape[0]) is not None, "the triangle of a square"
    else:
        sound, expected = len(shape) == 1, "a diagonal"
    if not sound:
        return f"matrix '{name}' has shape {shape}, expected {expected}"
    if form == "low_rank":
        factors = shape_of(name + FACTORS)
        if len(factors) != 2 or factors[0] != shape[0]:
            return f"the factors of '{name}' have shape {factors}, expected [{shape[0]}, rank]"
    return None


def check_form(form: str, rank: int | None) -> None:
    """Raise unless ``form`` is one of `FORMS` and has a rank exactly where it needs one.

    Raises:
        StatisticsError: saying what was expected.
    """
    if form not in FORMS:
        raise StatisticsError(f"form={form!r}: expected one of {', '.join(FORMS)}")
    if (form == "low_rank") != (rank is not None) or (rank is not None and rank < 1):
        raise StatisticsError(f"rank={rank}: expected a positive number for the form low_rank, None for others")

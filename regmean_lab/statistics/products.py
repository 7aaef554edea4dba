"""The symmetric product of a matrix with itself."""

from __future__ import annotations

import torch
from torch import Tensor

from .rank_k import can_update, has_rank_k_update, rank_k_update_

# Widest block that is multiplied whole, unless an eighth of the matrix is wider. Small blocks save more of the lower
# triangle; a GPU wants larger products, and narrow types take so little time that calls count.
_BLOCK_WIDTH_CPU = 128
_BLOCK_WIDTH_CPU_NARROW = 192
_BLOCK_WIDTH_DEVICE = 1024

# What is worth a product of its own, in rows and in bytes: with less, reading and writing the sum takes too much of the
# time. A GPU wants larger products.
_PACKED_ROWS_CPU = 512
_PACKED_ROWS_DEVICE = 2048
# BLAS's update reads and writes the sum while it computes: from so many rows on, more together are no faster.
_PACKED_ROWS_UPDATE = 128
_PACKED_BYTES = 2**21

_MIRROR_WIDTH = 256

# Newer versions of PyTorch return float32 from a product of narrower matrices, on CUDA.
_HAS_WIDE_PRODUCT = "dtype" in torch.ops.aten.mm.overloads()


def packed_rows(rows: Tensor) -> int:
    """How many rows like ``rows`` ``[any, in]`` are worth a product of their own."""
    if can_update(rows):
        return _PACKED_ROWS_UPDATE
    row_bytes = rows.shape[1] * rows.dtype.itemsize
    # Narrow types are multiplied faster, but what is read and written of a sum stays the same.
    least = _PACKED_ROWS_DEVICE if rows.device.type != "cpu" else _PACKED_ROWS_CPU * 4 // min(4, rows.dtype.itemsize)
    return max(least, _PACKED_BYTES // max(1, row_bytes))


def add_gram_(total: Tensor, rows: Tensor, *, block_width: int | None = None) -> Tensor:
    """Add the upper triangle of ``rowsᵀ rows`` to ``total``, in place.

    In one thread of the CPU this is a rank-k update of BLAS, which costs half of the product. Elsewhere wide products
    are halved recursively and only the blocks on and above the diagonal are computed, which saves up to half. What lies
    below the diagonal of ``total`` is undefined until `mirror_upper_` is called.

    Args:
        total: ``[in, in]``, changed in place.
        rows: ``[rows, in]``, on the same device, and of the same dtype or a narrower one. Float32 products are as
            precise as PyTorch's settings ask for (on CUDA, ``torch.set_float32_matmul_precision``). Products of
            bfloat16 and float16 are added up in float32; on CUDA they stay so (given PyTorch 2.8 or newer), elsewhere
            each block of the product is rounded to the dtype of the rows before it is added.
        block_width: compute blocks, whole if they are at most so wide; by default chosen for the device.

    Returns:
        ``total``.
    """
    width = rows.shape[1]
    if block_width is None:
        if has_rank_k_update(total, rows):
            return rank_k_update_(total, rows)
        block_width = max(_least_block_width(rows), width // 8)
    if width <= block_width:
        return _add_product_(total, rows, rows)
    half = (width + 1) // 2
    left, right = rows[:, :half], rows[:, half:]
    add_gram_(total[:half, :half], left, block_width=block_width)
    _add_product_(total[:half, half:], left, right)
    add_gram_(total[half:, half:], right, block_width=block_width)
    return total


def _least_block_width(rows: Tensor) -> int:
    """The width to which it always pays to halve a product."""
    if rows.device.type != "cpu":
        return _BLOCK_WIDTH_DEVICE
    return _BLOCK_WIDTH_CPU if rows.dtype.itemsize >= 4 else _BLOCK_WIDTH_CPU_NARROW


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Add ``leftᵀ right`` to ``total``, in place."""
    if total.dtype == left.dtype:
        return total.addmm_(left.T, right)
    if _HAS_WIDE_PRODUCT and left.is_cuda and total.dtype == torch.float32:
        return total.add_(torch.mm(left.T, right, out_dtype=torch.float32))
    return total.add_(left.T @ right)


def mirror_upper_(total: Tensor) -> Tensor:
    """Copy the upper triangle of ``total`` ``[in, in]`` onto the lower one, in place; the result is symmetric."""
    width = len(total)
    if width <= _MIRROR_WIDTH:
        upper = total.triu(1)
        return total.triu_().add_(upper.T)
    half = (width + 1) // 2
    mirror_upper_(total[:half, :half])
    total[half:, :half].copy_(total[:half, half:].T)
    mirror_upper_(total[half:, half:])
    return total

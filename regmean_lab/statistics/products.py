"""The symmetric product of a matrix with itself."""

from __future__ import annotations

from torch import Tensor

# Widest block that is multiplied whole. Small blocks save more of the lower triangle; a GPU wants larger products.
_BLOCK_WIDTH_CPU = 256
_BLOCK_WIDTH_DEVICE = 1024


def add_gram_(total: Tensor, rows: Tensor, *, block_width: int | None = None) -> Tensor:
    """Add the upper triangle of ``rowsᵀ rows`` to ``total``, in place.

    Wide products are halved recursively and only the blocks on and above the diagonal are computed, which saves up to
    half of the work. What lies below the diagonal of ``total`` is undefined until `mirror_upper_` is called.

    Args:
        total: ``[in, in]``, changed in place.
        rows: ``[rows, in]``, of the same dtype and device. On CUDA, float32 products are as precise as
            ``torch.set_float32_matmul_precision`` asks for.
        block_width: width of the widest block that is computed whole; by default chosen for the device.

    Returns:
        ``total``.
    """
    if block_width is None:
        block_width = _BLOCK_WIDTH_CPU if rows.device.type == "cpu" else _BLOCK_WIDTH_DEVICE
    width = rows.shape[1]
    if width <= block_width:
        return total.addmm_(rows.T, rows)
    half = (width + 1) // 2
    left, right = rows[:, :half], rows[:, half:]
    add_gram_(total[:half, :half], left, block_width=block_width)
    total[:half, half:].addmm_(left.T, right)
    add_gram_(total[half:, half:], right, block_width=block_width)
    return total


def mirror_upper_(total: Tensor) -> Tensor:
    """Copy the upper triangle of ``total`` ``[in, in]`` onto the lower one, in place; the result is symmetric."""
    upper = total.triu(1)
    return total.triu_().add_(upper.T)

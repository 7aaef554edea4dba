"""The least that statistics can cost: the forward pass, and the products that cannot be avoided."""

from __future__ import annotations

import torch

from benchmarks.measure import now, synchronize
from regmean_lab.statistics import GramStatistics

PROBE_ROWS, PROBE_WIDTH = 2048, 1536


def gram_operations(statistics: GramStatistics) -> int:
    """Floating-point operations of the upper triangles of ``xxᵀ`` over the rows of every distinct input."""
    return sum(statistics.rows[name] * len(matrix) * (len(matrix) + 1) for name, matrix in statistics.matrices.items())


def matrix_speed(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a large product ``XᵀX`` on this machine, now: the best of a few."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(PROBE_ROWS, PROBE_WIDTH, generator=generator).to(device, dtype)
    best = 0.0
    for _ in range(4):
        synchronize(device)
        started = now()
        rows.T @ rows
        synchronize(device)
        best = max(best, 2 * PROBE_ROWS * PROBE_WIDTH**2 / (now() - started))
    return best

"""Whether a tensor holds NaN or infinity."""

from __future__ import annotations

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no element of ``tensor`` is NaN or infinite, in one pass and without a copy of it."""
    if tensor.numel() == 0 or not tensor.dtype.is_floating_point:
        return True
    smallest, largest = torch.aminmax(tensor)  # NaN carries through
    return bool(torch.isfinite(smallest) & torch.isfinite(largest))

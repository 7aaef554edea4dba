"""What users are told where memory runs out in a merge."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from regmean_lab.merging.base import MergeMethod
from regmean_lab.merging.refining import RefiningMethod
from regmean_lab.utils.memory import halved, memory_for, other_device


def memory_for_merge(method: MergeMethod, members: Sequence[str], device: torch.device) -> AbstractContextManager[None]:
    """Say of an error for lack of memory what was merged, and what takes less.

    Args:
        method: the method.
        members: names of what is merged.
        device: where it is computed.
    """
    remedies = []
    if (batch_size := getattr(method, "batch_size", None)) is not None:
        remedies += halved("method.batch_size", batch_size, "texts of each member at once")
    if isinstance(method, RefiningMethod):
        remedies += halved("method.examples", method.text_examples, "texts of each member; another merge")
    remedies += other_device(str(device))
    remedies.append("method=simple or another one of weights alone (pieces of a parameter; another merge)")
    return memory_for(f"merge {', '.join(members)} by {method.name}, on {device}", remedies)

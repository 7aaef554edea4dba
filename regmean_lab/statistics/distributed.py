"""The processes among which examples are divided: those of PyTorch's default process group.

Without a process group there is one process, which has everything.
"""

from __future__ import annotations

from typing import TypeVar

import torch.distributed
from torch import Tensor

from .errors import StatisticsError

T = TypeVar("T")


def world_size() -> int:
    """The number of processes."""
    return torch.distributed.get_world_size() if _is_running() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return torch.distributed.get_rank() if _is_running() else 0


def gather(value: T) -> list[T]:
    """The values that all processes give here, in the order of their numbers; every process must call this."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def add_up_(tensor: Tensor) -> Tensor:
    """Put the sum of all processes' tensors of this shape in the place of each; every process must call this."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def check_sound(broken: str) -> None:
    """Raise in every process if one has something to complain of.

    Raises:
        StatisticsError: with the first process's complaint.
    """
    found = [(number, message) for number, message in enumerate(gather(broken)) if message]
    if found:
        raise StatisticsError(f"process {found[0][0]}: {found[0][1]}")


def _is_running() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()

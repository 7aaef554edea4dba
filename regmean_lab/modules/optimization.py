"""Optimizer and learning-rate schedule of training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    get_constant_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

POLYNOMIAL_END = 1e-7
"""Learning rate at the end of the polynomial schedule."""


@dataclass(frozen=True)
class Optimization:
    """AdamW and its schedule.

    Attributes:
        learning_rate: peak learning rate.
        weight_decay: decoupled weight decay.
        schedule: ``polynomial`` (power 1, to 1e-7), ``linear`` (to 0) or ``constant``, after the warm-up.
        warmup: share of all steps in which the learning rate rises from 0.
    """

    learning_rate: float
    weight_decay: float = 0.0
    schedule: str = "polynomial"
    warmup: float = 0.06

    def optimizer(self, parameters: Iterable[nn.Parameter], fused: bool = True) -> torch.optim.AdamW:
        """AdamW, by default in one fused kernel, which CPU and CUDA have."""
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused)

    def scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """The schedule over ``steps`` optimizer steps.

        Raises:
            ValueError: for a schedule that does not exist.
        """
        warmup = round(self.warmup * steps)
        if self.schedule == "polynomial":
            end = min(POLYNOMIAL_END, self.learning_rate / 2)
            return get_polynomial_decay_schedule_with_warmup(optimizer, warmup, steps, lr_end=end, power=1.0)
        if self.schedule == "linear":
            return get_linear_schedule_with_warmup(optimizer, warmup, steps)
        if self.schedule == "constant":
            return get_constant_schedule_with_warmup(optimizer, warmup)
        raise ValueError(f"unknown schedule {self.schedule!r}")

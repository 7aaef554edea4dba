"""What is measured, and under which setting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Setting:
    """How figures are measured.

    Attributes:
        device: where.
        repeats: rounds; in each, all that is compared runs once.
        sentences: sentences of the main workload; others have a share of them.
        pico: models of a few parameters and made-up sentences: tells whether the code runs, not how fast.
        data_dir: where the sentiment suite's data lies, or is brought to.
        emotion_dir: where prepared emotion corpora lie (the folder that holds ``emotion_splits``); None without.
        merge_parameters: parameters of the checkpoints whose merge's memory is measured.
        scratch: where those checkpoints are written for the while; None is the system's folder.
    """

    device: torch.device
    repeats: int = 3
    sentences: int = 384
    pico: bool = False
    data_dir: Path = Path("data")
    emotion_dir: Path | None = None
    merge_parameters: int = 50_000_000
    scratch: Path | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether an accelerator is measured."""
        return self.device.type != "cpu"


@dataclass(frozen=True)
class Figure:
    """One figure: a ratio, or something else that can be compared between machines.

    Attributes:
        name: what was measured.
        value: the median over the rounds; NaN where it could not be measured.
        low: the least of the rounds.
        high: the greatest.
        goal: what it should be at most (at least, if ``more_is_better``); None without a goal.
        more_is_better: which way the goal goes.
        note: seconds behind a ratio, errors, and what else a reader must know.
    """

    name: str
    value: float
    low: float
    high: float
    goal: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None or math.isnan(self.value):
            return None
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal


def unmeasured(name: str, goal: float | None, why: str) -> Figure:
    """A figure that could not be measured here."""
    return Figure(name, math.nan, math.nan, math.nan, goal, note=f"not measured: {why}")

"""Time, measured so that ratios survive a machine with other work on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

from benchmarks.figure import Figure

_clock = time.perf_counter


def use_processor_time() -> None:
    """Measure the time of this process on the processor instead of time: for machines that have other work to do."""
    global _clock
    _clock = time.process_time


def now() -> float:
    """Seconds since some moment."""
    return _clock()


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``work`` takes, once."""
    synchronize(device)
    started = now()
    work()
    synchronize(device)
    return now() - started


def interleaved(
    contenders: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each contender in each round.

    All run once a round, every other round in reverse order, so that what else the machine does meets all alike.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repeats):
        order = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in order:
            times[name].append(seconds(contenders[name], device))
    return times


def ratio(
    name: str, ours: Sequence[float], theirs: Sequence[float], goal: float | None = None, note: str = ""
) -> Figure:
    """The median over rounds of the ratio of two times."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    behind = f"{median(ours):.2f} s / {median(theirs):.2f} s"
    return Figure(
        name, median(ratios), min(ratios), max(ratios), goal, note=behind if not note else f"{behind}; {note}"
    )

"""The figures as a page of Markdown."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.figure import Figure, Setting
from regmean_lab.tracking.environment import commit, versions
from regmean_lab.utils.files import write_text

PACKAGES = ("python", "torch", "pytorch-lightning", "transformers")

SHARED = "Machine"

EXPLANATION = """\
Every figure is a ratio of times that were measured in turns in the same run: the median over the rounds, and the least
and the greatest. *textbook* is the plain version in `benchmarks/baseline.py` (a hook on every linear layer, `XᵀX` of
all rows with padding, a running mean, batches of 32 in random order; an explicit inverse; squared gradients of batches'
mean losses). *floor* is the bare forward pass over our length-sorted batches plus the time in which this machine, at
the speed of a large matrix product measured in the same round, does half the products of the real tokens of every
distinct input. Below each table is what it was measured with.
"""


@dataclass(frozen=True)
class Taken:
    """What a family took.

    Attributes:
        seconds: time.
        processor: seconds of all processors, those of processes that it has started and that have ended included.
    """

    seconds: float
    processor: float

    @classmethod
    def now(cls) -> Taken:
        """Since some moment."""
        return cls(time.perf_counter(), sum(os.times()[:4]))

    def __sub__(self, earlier: Taken) -> Taken:
        return Taken(self.seconds - earlier.seconds, self.processor - earlier.processor)


def write_report(
    path: Path,
    families: Mapping[str, Sequence[Figure]],
    failures: Mapping[str, str],
    setting: Setting,
    taken: Mapping[str, Taken],
) -> None:
    """Write the page; sections of families that it has and that were not measured now stay as they are.

    Args:
        path: the file.
        families: figures by family.
        failures: what went wrong, by family.
        setting: how they were measured.
        taken: how long each family took.
    """
    below = {
        family: ["", *(f"- {line}" for line in machine(setting, taken[family]))] for family in (*families, *failures)
    }
    sections = {
        **read_sections(path),
        **{family: [*table(figures), *below[family]] for family, figures in families.items()},
        **{family: [f"Failed: {message}", *below[family]] for family, message in failures.items()},
    }
    lines = ["# Benchmarks", "", EXPLANATION]
    for family, content in sections.items():
        lines += [f"## {family}", "", *content, ""]
    write_text(path, "\n".join(lines))


def read_sections(path: Path) -> dict[str, list[str]]:
    """The sections of a page that was written before, by family.

    On pages of earlier versions one section at the end told the machine of all: it is put below each.
    """
    sections: dict[str, list[str]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    content: list[str] = []
    for line in lines:
        if line.startswith("## "):
            content = sections.setdefault(line.removeprefix("## "), [])
        else:
            content.append(line)
    shared = _trimmed(sections.pop(SHARED, []))
    return {
        family: _trimmed(own) + (["", *shared] if shared and not any(_tells_machine(line) for line in own) else [])
        for family, own in sections.items()
    }


def _tells_machine(line: str) -> bool:
    return line.startswith("- commit ")


def _trimmed(lines: Sequence[str]) -> list[str]:
    return "\n".join(lines).strip("\n").split("\n") if any(lines) else []


def table(figures: Sequence[Figure]) -> list[str]:
    """A table of figures, one a row."""
    lines = ["| figure | median | rounds | goal | met | behind it |", "|---|---:|---|---:|---|---|"]
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≥' if figure.more_is_better else '≤'} {figure.goal:g}"
        met = {None: "", True: "yes", False: "no"}[figure.met]
        rounds = "" if math.isnan(figure.low) else f"{_number(figure.low)} – {_number(figure.high)}"
        cells = [figure.name, _number(figure.value), rounds]
        lines.append("| " + " | ".join([*cells, goal, met, figure.note]) + " |")
    return lines


def machine(setting: Setting, taken: Taken) -> list[str]:
    """What the figures of a family depend on, and how long they took."""
    found = versions()
    device = f"{torch.get_num_threads()} threads of {_processor()}"
    if setting.device.type == "cuda":
        device = f"{torch.cuda.get_device_name(setting.device)}, {device}"
    if sys.dont_write_bytecode:
        device += "; every process compiles what it imports (PYTHONDONTWRITEBYTECODE)"
    return [
        f"{device}; {platform.system()}",
        ", ".join(f"{name} {found[name]}" for name in PACKAGES),
        f"commit {commit() or 'unknown'}",
        f"`python -m benchmarks {shlex.join(sys.argv[1:])}`".replace(" `", "`"),
        f"{setting.repeats} rounds, {setting.sentences} sentences; {taken.seconds / 60:.1f} minutes, of processors "
        f"{taken.processor / 60:.1f}",
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

"""How long commands take to start: processor time, as what else a machine does changes that least."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.command_line import run_sweep
from benchmarks.figure import Figure, Setting
from benchmarks.measure import interleaved
from regmean_lab.utils.cache import CACHE_VARIABLE

CORPORA = ("films", "books", "hotels")
EXAMPLES = 60
TORCH, TRANSFORMERS = "import torch", "import torch, transformers"
MODELS = "import torch; from transformers import PreTrainedModel"
"""The library imports its parts when they are used; whoever makes a model, even without weights, needs this one."""

MERGE = "a merge of two tiny folders, written"
FIRST, AGAIN = f"{MERGE}, the first of their architectures", f"{MERGE}, after one of their architectures"


@dataclass(frozen=True)
class Start:
    """What a process took.

    Attributes:
        processor: seconds of the processor, those in the system included.
        time: seconds.
    """

    processor: float
    time: float


@dataclass(frozen=True)
class Command:
    """A command whose start is measured.

    Attributes:
        name: what it is called.
        arguments: of the interpreter.
        goal: most seconds of the processor; None without a goal.
        status: its exit status.
        environment: variables that it has beside those of this process.
        new: folders that are removed before each run.
    """

    name: str
    arguments: Sequence[str]
    goal: float | None = None
    status: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    new: Sequence[Path] = ()


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family; models are tiny, as what is measured does not depend on their size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = finished_sweep(folder)
        first, again = _merge(folder, FIRST, known=False), _merge(folder, AGAIN, known=True)
        commands = [
            *(Command(libraries, ["-c", libraries]) for libraries in (TORCH, TRANSFORMERS, MODELS)),
            Command("--help", _ours("--help"), 1.5),
            Command("a wrong override refused", _ours("method=nonsense"), 1.5, status=2),
            Command("zoo", _ours("zoo", f"--zoo-dir={folder / 'zoo'}")),
            Command("prepare --help", _ours("prepare", "--help")),
            Command("report without figures", _ours("report", f"results={folder / 'outputs'}", "figures=false")),
            Command("plan of a finished sweep", _ours("plan", *sweep)),
            Command("a finished sweep found again, with summary and figure", _ours("-m", *sweep), 4.0),
            first,
            again,
        ]
        started(again)  # it is to have run before
        starts = _measured(commands, setting)
    found = [
        Figure(
            f"{command.name}: seconds of the processor",
            *_spread([start.processor for start in starts[command.name]]),
            goal=command.goal,
            note=f"{median(start.time for start in starts[command.name]):.1f} s of time",
        )
        for command in commands
    ]
    for merge, goal in ((first, None), (again, 1.5)):
        pairs = zip(starts[merge.name], starts[TRANSFORMERS], strict=True)
        ratios = [ours.processor / theirs.processor for ours, theirs in pairs]
        found.append(Figure(f"{merge.name}: processor time / {TRANSFORMERS}", *_spread(ratios), goal=goal))
    return found


def finished_sweep(folder: Path) -> list[str]:
    """Run a sweep of two methods below a folder; its overrides."""
    for corpus in CORPORA:
        with (folder / f"{corpus}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(
                [f"the {corpus} were {word} {number}", label]
                for number in range(EXAMPLES)
                for label, word in (("bad", "awful"), ("good", "best"))
            )
    overrides = [
        *("suite=text_classification", *(f"suite.corpora.{name}={folder / f'{name}.csv'}" for name in CORPORA)),
        *(f"members=[{','.join(CORPORA[:2])}]", "model=pico_bert", "training.epochs=1", "method=simple,regmean"),
        *("trainer=cpu", "trainer.progress_bar=false", "logger=none"),
        *(f"paths.zoo_dir={folder / 'zoo'}", f"paths.output_dir={folder / 'outputs'}"),
    ]
    run_sweep(overrides)
    return overrides


def _merge(folder: Path, name: str, known: bool) -> Command:
    """A merge of the sweep's members, which are folders of a few hundred kilobytes.

    Args:
        folder: where the sweep is.
        name: what it is called.
        known: whether structures of architectures that an earlier run has kept are there.
    """
    members = [path.parent for path in sorted((folder / "zoo").glob("*/training.json"))]
    checkpoints = f"checkpoints=[{','.join(map(str, members))}]"
    overrides = ["method=simple", checkpoints, f"output={folder / 'merged'}", "trainer=cpu"]
    overrides += [f"paths.output_dir={folder / 'merges'}", f"paths.zoo_dir={folder / 'zoo'}"]
    kept = folder / ("known" if known else "unknown")
    new = [folder / "merged", *([] if known else [kept])]
    return Command(name, _ours("merge", *overrides), environment={CACHE_VARIABLE: str(kept)}, new=new)


def _ours(*arguments: str) -> list[str]:
    return ["-m", "regmean_lab", *arguments]


def _measured(commands: Sequence[Command], setting: Setting) -> dict[str, list[Start]]:
    starts: dict[str, list[Start]] = {command.name: [] for command in commands}

    def runs(command: Command) -> Callable[[], None]:
        return lambda: starts[command.name].append(started(command))

    interleaved({command.name: runs(command) for command in commands}, setting.repeats, setting.device)
    return starts


def started(command: Command) -> Start:
    """Run a command in a process of its own, from the current folder.

    Raises:
        RuntimeError: when it ends with another status, with the end of what it wrote.
    """
    for folder in command.new:
        shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, **command.environment}
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command.arguments], stdout=log, stderr=log, env=environment)
        _, ended, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(ended)
        if process.returncode != command.status:
            log.seek(0)
            raise RuntimeError(f"{command.name}: {log.read().decode(errors='replace')[-2000:]}")
    return Start(usage.ru_utime + usage.ru_stime, seconds)


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)

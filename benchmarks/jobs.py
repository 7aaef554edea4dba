"""Jobs of a warm sweep, whose members and statistics are there, against one process a job."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.command_line import common_overrides, run_sweep
from benchmarks.figure import Figure, Setting
from benchmarks.measure import seconds

METHODS = ("individual", "ensemble", "multitask", "simple", "fisher", "regmean")
MERGES = ("simple", "fisher", "regmean")
PAIRS = ("[tweets,nyt]", "[tweets,movie]", "[movie,nyt]")


@dataclass(frozen=True)
class Sweep:
    """The jobs of ``table2-mini`` with one seed and three pairs, on briefly trained members.

    Attributes:
        folder: holds the zoo and the results.
        setting: how figures are measured.
    """

    folder: Path
    setting: Setting

    @property
    def common(self) -> list[str]:
        """Overrides of all runs: what the members have learned does not matter here."""
        return [
            *("+multirun_sweeps=table2-mini", *common_overrides(self.setting, self.folder), "seed=1", "head_init=same"),
            *("suite.train_examples=64", "suite.dev_examples=32", "training.epochs=1"),
            *("statistics.gram.examples=64", "statistics.fisher.examples=64"),
        ]

    def run(self, pairs: str, methods: str, *more: str) -> None:
        """One process: ``python -m regmean_lab``."""
        run_sweep([*self.common, f"members={pairs}", f"method={methods}", *more])

    def overheads(self) -> list[float]:
        """Seconds from the result before to the result of each merge, without its evaluation."""
        results = sorted((self.folder / "outputs").rglob("result.json"), key=lambda path: path.stat().st_mtime)
        found = []
        for before, path in itertools.pairwise(results):
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["method"] in MERGES:
                passed = path.stat().st_mtime - before.stat().st_mtime
                found.append(passed - result["seconds"]["evaluate"])
        return found


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder), setting)
        pairs = PAIRS[:1] if setting.pico else PAIRS
        sweep.run(",".join(pairs), ",".join(METHODS))
        together = seconds(lambda: sweep.run(",".join(pairs), ",".join(METHODS), "force=true"), setting.device)
        overheads = sweep.overheads()
        alone = [
            seconds(lambda method=method: sweep.run(pairs[0], method, "force=true"), setting.device)  # type: ignore[misc]
            for method in METHODS
        ]
    each = together / (len(METHODS) * len(pairs))
    own = sum(alone) / len(alone)
    return [
        Figure(
            "jobs a minute of a warm sweep / one process a job",
            own / each,
            min(alone) / each,
            max(alone) / each,
            8.0,
            more_is_better=True,
            note=f"{60 / each:.1f} / {60 / own:.1f} jobs a minute; {len(METHODS) * len(pairs)} jobs with their start",
        ),
        Figure(
            "seconds of a warm merge besides its evaluation (compose, load, merge, write)",
            median(overheads),
            min(overheads),
            max(overheads),
            1.5,
            note=f"{len(overheads)} merges by {', '.join(MERGES)}",
        ),
    ]

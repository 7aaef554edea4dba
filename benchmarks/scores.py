"""What reduced precision of the statistics does to the scores of a merge."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.command_line import common_overrides, run_sweep
from benchmarks.figure import Figure, Setting

MEMBERS = ("tweets", "nyt")
TRAINED = (
    *("suite.train_examples=240", "suite.dev_examples=100", "suite.test_examples=300"),
    *("training.epochs=2", "training.batch_size=8", "statistics.gram.examples=240"),
)
"""Members as the small sweeps train them, which have learned their task."""


def figures(setting: Setting) -> list[Figure]:
    """The largest change of a merged model's scores when Gram matrices are collected in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        trained = [] if setting.pico else TRAINED
        run_sweep(
            [
                *("suite=sentiment", "method=regmean", f"members=[{','.join(MEMBERS)}]"),
                *common_overrides(setting, Path(folder)),
                *trained,
                "statistics.gram.precision=float32,bf16",
            ]
        )
        exact, rough = sorted(
            (json.loads(path.read_text(encoding="utf-8")) for path in Path(folder, "outputs").rglob("result.json")),
            key=lambda result: str(result["configuration"]["statistics"]["gram"]["precision"]),
            reverse=True,
        )
    changes = [
        abs(rough["scores"][domain][corpus] - score)
        for domain, scores in exact["scores"].items()
        for corpus, score in scores.items()
    ]
    means = f"mean in domain {rough['mean_in_domain']:.2f} instead of {exact['mean_in_domain']:.2f}"
    return [
        Figure(
            f"RegMean of {' and '.join(MEMBERS)}, statistics in bfloat16: change of a score (points), the largest",
            *(max(changes), min(changes), max(changes)),
            note=f"{means}; {len(changes)} corpora, least and largest change",
        )
    ]

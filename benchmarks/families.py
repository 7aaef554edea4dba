"""All families of figures. A new one is a file with a function like these, and one line here."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import blocks, demo, fisher, gram, jobs, merge, merge_memory, peers, scores, start, training
from benchmarks.figure import Figure, Setting

FAMILIES: dict[str, Callable[[Setting], list[Figure]]] = {
    "gram": gram.figures,
    "fisher": fisher.figures,
    "merge": merge.figures,
    "merge-memory": merge_memory.figures,
    "blocks": blocks.figures,
    "scores": scores.figures,
    "training": training.figures,
    "jobs": jobs.figures,
    "peers": peers.figures,
    "start": start.figures,
    "demo": demo.figures,
}
"""What measures each family."""

BY_NAME = ("merge-memory", "blocks", "scores", "jobs", "peers", "demo")
"""Families that are measured only where they are named: they take long, or another program."""

ON_GPU = ("gram", "fisher", "merge", "training", "demo")
"""What is measured on a GPU where no family is named."""

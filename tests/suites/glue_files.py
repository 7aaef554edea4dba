"""GLUE data for tests: files in the layout of data/README.md."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
GOOD, BAD = ("happy", "great", "best", "loved"), ("terrible", "bad", "worse", "angry")
FILLERS = ("the", "river", "rose", "after", "week", "of", "rain", "and", "people", "moved", "their", "books")


def row(task: str, label: Any, text: str = "one", pair: str = "two") -> dict[str, Any]:
    return {**dict(zip(COLUMNS[task], (text, pair), strict=False)), "label": label, "idx": 0}


def made_up_rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows whose label shows in the first sentence's first word; all texts differ."""
    generator = random.Random(f"{task} {seed}")
    rows = []
    for number in range(count):
        good = generator.randrange(2)
        first = [generator.choice((BAD, GOOD)[good]), *generator.sample(FILLERS, generator.randint(1, 4)), str(number)]
        second = generator.sample(FILLERS, generator.randint(1, 6))
        label: Any = 1 - good if task in ("mrpc", "rte") else good
        if task == "stsb":
            label = round(1.5 + 2 * good + generator.uniform(-1.5, 1.5), 2)
        if task == "mnli":
            label = generator.randrange(3)
        rows.append(row(task, label, " ".join(first), " ".join(second)))
    return rows


def write_rows(data_dir: Path, task: str, split: str, rows: Sequence[Any]) -> Path:
    name = "validation_matched" if (task, split) == ("mnli", "validation") else split
    path = data_dir / "glue" / task / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in rows))
    return path


def write_task(data_dir: Path, task: str, train: int = 24, validation: int = 12) -> None:
    for split, count, seed in (("train", train, 1), ("validation", validation, 2)):
        write_rows(data_dir, task, split, made_up_rows(task, count, seed))

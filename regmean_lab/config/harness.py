"""Settings of ``suite=lm_eval``: tasks of the lm-evaluation-harness, which score checkpoints and train none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HARNESS = "lm_eval"
"""What ``suite=`` calls it."""


@dataclass
class HarnessSettings:
    """Tasks of the lm-evaluation-harness, for ``regmean-lab evaluate`` alone (``docs/evaluating.md``).

    Attributes:
        tasks: names of its tasks or groups, or of those in ``include_path``.
        include_path: a folder with tasks of one's own, as YAML; None: none. Code that they name is run.
        fewshot: examples before each question; None: as the task says.
        limit: only the first N examples of each task; None: all.
        seed: which examples are drawn as few-shot examples.
    """

    tasks: list[str] = field(default_factory=list)
    include_path: str | None = None
    fewshot: int | None = None
    limit: int | None = None
    seed: int = 0

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        found = []
        if not self.tasks:
            found.append("tasks: none is named; for example suite.tasks=[hellaswag,arc_easy]")
        if self.include_path is not None and not Path(self.include_path).expanduser().is_dir():
            found.append(f"include_path: no such folder: {self.include_path}")
        if self.fewshot is not None and self.fewshot < 0:
            found.append(f"fewshot: expected at least 0 or null, got {self.fewshot}")
        if self.limit is not None and self.limit < 1:
            found.append(f"limit: expected at least 1 or null, got {self.limit}")
        return found

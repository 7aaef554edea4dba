"""Rows as examples: which columns hold the texts and the label, and what labels there are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regmean_lab.suites.base import Example, Task
from regmean_lab.suites.reading import json_object, parse_lines


@dataclass(frozen=True)
class RowFormat:
    """How the rows of a corpus become examples, and with it the task.

    Attributes:
        columns: columns of the text, or of the two texts of a pair.
        labels: label names in the order of their ids; one name for a regression.
        key_score: the metric that selects epochs and is reported (:attr:`~regmean_lab.suites.base.Task.key_score`).
        label: column of the label: its name or its id (of names that are numbers, the name), for a regression a number.
        lowest: for a regression, the smallest value that is allowed.
        highest: for a regression, the largest.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    key_score: str = "accuracy"
    label: str = "label"
    lowest: float = -math.inf
    highest: float = math.inf

    def __post_init__(self) -> None:
        for name in ("columns", "labels"):
            if isinstance(getattr(self, name), str):  # ("text") is no tuple
                raise ValueError(f"{name}: expected a tuple of names, got {getattr(self, name)!r}")
        if not 1 <= len(self.columns) <= 2 or not self.labels:
            raise ValueError(f"expected one or two columns and at least one label, got {self.columns}, {self.labels}")

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number, from ``lowest`` to ``highest``."""
        return len(self.labels) == 1

    @property
    def task(self) -> Task:
        """The task as modules and metrics know it."""
        return Task("regression" if self.is_regression else "single_label", self.labels, self.key_score)

    @property
    def description(self) -> dict[str, Any]:
        """What determines the examples of a file, as JSON has it."""
        content = {name: value for name, value in asdict(self).items() if name != "key_score"}
        return {name: str(value) if isinstance(value, float) else value for name, value in content.items()}

    def read(self, path: Path) -> list[Example]:
        """Read a file: one JSON object per line. Columns that are not used are not looked at.

        Raises:
            DataError: naming up to ten malformed lines, or if there is no row.
        """
        return parse_lines(path, lambda line: self.example(json_object(line)))

    def example(self, row: Mapping[str, Any]) -> Example:
        """The example of one row; columns that are not used are not looked at.

        Raises:
            ValueError: saying what is wrong with the row.
        """
        names = (*self.columns, self.label)
        if absent := [name for name in names if name not in row]:
            raise ValueError(f"the row has no {' and '.join(json.dumps(name) for name in absent)}")
        for name in self.columns:
            if not isinstance(row[name], str):
                raise ValueError(f'"{name}" must be a string, found {json.dumps(row[name])[:60]}')
        texts = [row[name] for name in self.columns]
        return Example(texts[0], self._label(row[self.label]), texts[1] if len(texts) == 2 else None)

    def _label(self, value: Any) -> int | float:
        if isinstance(value, str) and value in self.labels and not self.is_regression:
            return self.labels.index(value)
        # bool is a kind of int in Python, but true is no label id.
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number and self.is_regression and self.lowest <= value <= self.highest:
            return float(value)
        if number and not self.is_regression and any(name.isdecimal() for name in self.labels):
            # Names that are numbers are meant by these numbers, not by their places: 4 of ("1", …, "5") is "4".
            if value == int(value) and str(int(value)) in self.labels:
                return self.labels.index(str(int(value)))
        elif number and not self.is_regression and value in range(len(self.labels)):
            return int(value)
        if number and value == -1:
            raise ValueError(
                f'"{self.label}" is -1: the labels of test splits are hidden; expected a train or validation split'
            )
        raise ValueError(f'"{self.label}" must be {self._expected()}, found {json.dumps(value)[:60]}')

    def _expected(self) -> str:
        if not self.is_regression:
            if any(name.isdecimal() for name in self.labels):
                return f"one of {', '.join(self.labels)}"
            return f"one of {', '.join(f'{number} ({name})' for number, name in enumerate(self.labels))}"
        if math.isfinite(self.lowest) and math.isfinite(self.highest):
            return f"a number from {self.lowest:g} to {self.highest:g}"
        return "a finite number"

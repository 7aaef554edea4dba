"""The base of all accumulators: sums over batches, in one process or in several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from .distributed import check_sound, gather
from .errors import StatisticsError, name_list
from .finite import all_finite

S = TypeVar("S")


class Accumulator(ABC, Generic[S]):
    """Adds up statistics over batches.

    A batch that fails half-way may be counted in part: nothing can be computed any more then.

    Attributes:
        title: what there is one of for each layer or parameter, for messages.
        overflowing: what overflows where a sum is not finite, for messages.
        suspects: what to check then.
        rows_are: what a layer's rows are, of which it may see none, for messages.
        none_yet: what is said where there is nothing to compute yet.
    """

    title: ClassVar[str] = "statistics"
    overflowing: ClassVar[str] = "values"
    suspects: ClassVar[str] = "the weights"
    rows_are: ClassVar[str] = "input"
    none_yet: ClassVar[str] = "no batch was added"

    def __init__(self) -> None:
        self._examples = 0
        self._batches = 0
        self._broken = ""
        self._added_up = False

    @property
    def examples(self) -> int:
        """Number of examples seen so far."""
        return self._examples

    @property
    def batches(self) -> int:
        """Number of batches seen so far."""
        return self._batches

    def add_up(self) -> None:
        """Add up the sums of all processes, which have each seen a share of the examples; ends the collection.

        Every process of the default process group must call this, once, also one that saw no batch. Afterwards
        `compute` gives the statistics of all examples in each.

        Raises:
            StatisticsError: in every process, if one has nothing sound to add.
        """
        check_sound(self._broken)
        self._add_up_sums()
        counts = gather((self._examples, self._batches))
        self._examples, self._batches = (sum(column) for column in zip(*counts, strict=True))
        self._added_up = True

    @abstractmethod
    def compute(self, device: torch.device | str = "cpu") -> S:
        """The statistics of all batches so far, on a device."""

    @abstractmethod
    def _add_up_sums(self) -> None:
        """Put the sums of all processes in the place of this one's; every process calls it."""

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is inside counts as a whole: after an exception nothing can be computed any more."""
        try:
            yield
        except BaseException:
            self._broken = "a batch failed half-way and may be counted in part"
            raise

    def _count(self, examples: int) -> None:
        """Count a batch that was added as a whole."""
        self._examples += examples
        self._batches += 1

    def _check_open(self, called: str) -> None:
        """Raise if ``called`` comes too late."""
        if self._added_up:
            raise StatisticsError(f"{called} was called after the sums of all processes were added up")

    def _check_counted(self) -> None:
        """Raise if there is nothing sound to compute."""
        if self._broken:
            raise StatisticsError(f"{self._broken}; collect again")
        if self._batches == 0:
            raise StatisticsError(self.none_yet)

    def _check_rows(self, rows: Mapping[str, int]) -> None:
        """Raise for layers without rows."""
        if empty := [layer for layer, count in rows.items() if count == 0]:
            raise StatisticsError(
                f"no {self.rows_are} rows were seen by {name_list(empty)}; either the model does not call the layer, "
                f"or its {self.rows_are}s do not have the shape of the mask: leave it out of `layers`, or pass a "
                "separate mask"
            )

    def _check_finite(self, tensors: Mapping[str, Tensor], names: Iterable[tuple[str, str]] | None = None) -> None:
        """Raise for NaN or infinity; ``names`` tells by layer the tensor that it has, where layers share some."""
        spoilt = {name for name, tensor in tensors.items() if not all_finite(tensor)}
        broken = [name for name, leader in (names or ((name, name) for name in tensors)) if leader in spoilt]
        if broken:
            raise StatisticsError(
                f"NaN or infinity in the {self.title} of {name_list(broken)}; the model's {self.overflowing} overflow "
                f"or its weights are not finite: check {self.suspects}, or collect without reduced precision"
            )

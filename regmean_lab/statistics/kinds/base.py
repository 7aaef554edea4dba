"""The interface of a kind of statistics, and the registry of all kinds."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from torch import Tensor

from regmean_lab.statistics.accumulator import Accumulator
from regmean_lab.statistics.batches import Batch
from regmean_lab.statistics.forms import Form, stored_numbers
from regmean_lab.statistics.likelihood import Likelihood
from regmean_lab.statistics.rows import Mask
from regmean_lab.statistics.scores import Scores
from regmean_lab.statistics.settings import KindConfig, MatrixConfig, WrittenAnswers
from regmean_lab.statistics.store import Json, StatisticsFile, write_matrices, write_statistics
from regmean_lab.statistics.vocabulary import Vocabulary


class Objective(Protocol):
    """What Fisher information is of, see :class:`regmean_lab.modules.base.FisherObjective`."""

    @property
    def likelihood(self) -> Likelihood:
        """The distribution of the labels."""

    @property
    def outputs(self) -> Callable[[Batch], Tensor]:
        """The model's outputs for a batch, which give that distribution; with gradients."""

    @property
    def labels_from(self) -> Any:
        """The variant."""

    @property
    def batch_mean_labels(self) -> Any:
        """The labels of the variant "batch_mean"."""

    def with_labels(self, batch: Batch) -> dict[str, Any]:
        """The batch with these labels in place of its own."""


class TaskModel(Protocol):
    """A model and how it does its task: what kinds need of :class:`regmean_lab.modules.base.TaskModule`."""

    model: Any

    def __call__(self, batch: Batch) -> Tensor:
        """Logits of a batch, with gradients."""

    @property
    def likelihood(self) -> Likelihood:
        """Distribution of the labels."""

    def gram_batches(self, batch: Batch, written: WrittenAnswers | None) -> Iterator[Batch]:
        """The batches that count for a batch: itself, and where answers are written, one with those."""

    def gram_pass(self, batch: Batch) -> None:
        """Run the model so that its linear layers get the inputs that count."""

    def gram_mask(self, batch: Batch) -> Mask:
        """Which rows of layers' inputs in `gram_pass` are real tokens."""

    def gradient_mask(self, batch: Batch) -> Mask:
        """Which rows of layers' outputs are real tokens when the module is called."""

    def scores(self, batch: Batch) -> Scores:
        """What the model decides by, with gradients."""

    def vocabulary(self) -> Vocabulary:
        """That of the tokenizer of the batches."""

    def texts_per_example(self) -> int:
        """2 where the examples of the batches are pairs of texts, otherwise 1."""

    def label_count(self) -> int:
        """Number of the labels of :meth:`predicted_labels`."""

    def predicted_labels(self, batch: Batch) -> Tensor:
        """The most probable label of each example [examples]."""

    def fisher_labels(self, batch: Batch) -> Tensor:
        """Labels distributed according to `likelihood`."""

    def fisher_objective(self, labels_from: str) -> Objective:
        """What Fisher information is of."""


class ModelSize(Protocol):
    """The size of a model, as plans estimate with it."""

    @property
    def parameters(self) -> int:
        """Number of all parameters."""

    @property
    def multiplied(self) -> int:
        """Number of those in linear layers: each token is multiplied by all of them."""

    @property
    def inputs(self) -> Sequence[int]:
        """Of each linear layer, the number of its inputs."""

    @property
    def outputs(self) -> Sequence[int]:
        """Of each linear layer, the number of its outputs."""

    @property
    def input_entries(self) -> int:
        """Number of entries of matrices [in, in] of all linear layers."""

    @property
    def output_entries(self) -> int:
        """Number of entries of matrices [out, out] of all linear layers."""


@dataclass(frozen=True)
class LayerStatistics:
    """Means over rows, by layer: what kinds of statistics of layers have in common.

    Attributes:
        matrices: by leading layer, a tensor whose first dimension is the layer's inputs or outputs.
        rows: by leading layer, the number of rows that its tensor is the mean of.
        examples: number of examples seen.
        batches: number of batches seen.
    """

    matrices: dict[str, Tensor]
    rows: dict[str, int]
    examples: int
    batches: int


class Collection(ABC):
    """Statistics of one module while batches go by.

    Args:
        module: the module, in evaluation mode, on the device that computes.
        accumulator: what adds up.

    Attributes:
        finished: whether no more batches are needed; those that come are left out.
    """

    def __init__(self, module: TaskModel, accumulator: Accumulator[Any]) -> None:
        self.module = module
        self.accumulator = accumulator
        self.finished = False

    @abstractmethod
    def add(self, batch: Batch) -> None:
        """Run the model on a batch, which is on its device, and count it."""

    def add_up(self) -> None:
        """Add up the sums of all processes; ends the collection."""
        self.accumulator.add_up()

    def compute(self) -> Any:
        """The statistics, on the CPU; ends the collection."""
        return self.accumulator.compute()


class Kind(ABC):
    """One kind of statistics: all that readers, writers, plans, publishing and reports know of it.

    A file in this folder that defines a subclass and registers it with :func:`register_kind` is all that a new kind
    takes: it has its settings under ``statistics.<name>``, and merge methods ask for it by its name.

    Attributes:
        name: its name in files, settings and merge methods.
        of: what there is a tensor for: the ``inputs`` or the ``outputs`` of each layer, or each of the ``parameters``.
            Of inputs, only those of the layers that a method reads are collected, fused experts' among them. Of
            ``texts`` tensors are of the data, whatever the model's layers.
        settings: the class of its settings.
        file: the class that reads its files, which has the same ``kind``.
        title: what it is and what it is for, in a model card.
        method: a merge method that needs it.
        reveals: what its files may reveal of the data, a sentence for model cards; ``{rows}`` is replaced by how many
            rows were seen for each column.
        tokens: tokens in a batch on an accelerator, where none are configured.
        forward_rows: whether its rows are those of a forward pass, so that it is known before anything is measured
            when there are too few for publication.
        runs_model: whether the model runs on every batch, as plans estimate.
        place: where it stands in lists of kinds.
        of_experts: of inputs, whether those of fused experts' layers are measured too.
    """

    name: ClassVar[str]
    of: ClassVar[Literal["inputs", "outputs", "parameters", "texts"]]
    settings: ClassVar[type[KindConfig]]
    file: ClassVar[type[StatisticsFile]]
    title: ClassVar[str]
    method: ClassVar[str]
    reveals: ClassVar[str]
    tokens: ClassVar[int] = 4096
    forward_rows: ClassVar[bool] = True
    runs_model: ClassVar[bool] = True
    place: ClassVar[int] = 100
    of_experts: ClassVar[bool] = True

    @property
    def by_layer(self) -> bool:
        """Whether there is a tensor for each layer, not for each parameter."""
        return self.of in ("inputs", "outputs")

    @abstractmethod
    def collection(self, module: TaskModel, settings: Any, layers: Sequence[str] | None, experts: bool) -> Collection:
        """Begin to collect.

        Args:
            module: the module, in evaluation mode, on the device that computes.
            settings: the kind's own.
            layers: the only layers that are needed; None for all.
            experts: whether layers of fused experts are among them.
        """

    def save(
        self,
        path: str | os.PathLike[str],
        statistics: Any,
        metadata: Mapping[str, Json],
        *,
        form: Form = "full",
        rank: int | None = None,
    ) -> None:
        """Write statistics, atomically.

        Args:
            path: the file; an existing one is replaced.
            statistics: by default with the attributes of `LayerStatistics`.
            metadata: see :func:`regmean_lab.statistics.store.write_statistics`.
            form: of matrices; anything else has one form only.
            rank: of the form ``low_rank``.
        """
        header = {
            "kind": self.name,
            "rows": statistics.rows,
            "shared": {name: name for name in statistics.matrices},
            "examples": statistics.examples,
            "batches": statistics.batches,
        }
        if self.file.is_of_matrices:
            write_matrices(path, statistics.matrices, header, metadata, form=form, rank=rank)
        else:
            write_statistics(path, statistics.matrices, header, metadata)

    def load(self, file: Any) -> Any:
        """All statistics of a file, to be written in another form; asked only of kinds of matrices."""
        matrices = {layer: file.matrix(layer) for layer in file.rows}
        return LayerStatistics(matrices, file.rows, file.examples, file.batches)

    def rows_of(self, statistics: Any) -> dict[str, int]:
        """By leading layer, the number of rows that its tensor is the mean of; empty where parameters have tensors."""
        return dict(statistics.rows) if self.by_layer else {}

    def widths_of(self, statistics: Any) -> dict[str, int]:
        """By leading layer, the number of columns of the rows; empty where parameters have tensors."""
        return {layer: len(tensor) for layer, tensor in statistics.matrices.items()} if self.by_layer else {}

    def contents(self, file: StatisticsFile) -> str:
        """How much is in a file, for model cards."""
        return f"{len(file.shared)} {'layers' if self.by_layer else 'parameters'}"

    def told(self, metadata: Mapping[str, Any]) -> str:
        """What a file with this metadata may reveal, as :attr:`reveals`."""
        return self.reveals

    def entries(self, size: ModelSize) -> int:
        """Number of entries of all that is summed up; plans say nothing of kinds of texts, which are small."""
        if self.of == "texts":
            return 0
        return {"inputs": size.input_entries, "outputs": size.output_entries, "parameters": size.parameters}[self.of]

    def numbers(self, size: ModelSize, settings: Any) -> int:
        """Number of numbers in a file: of matrices, those of the form that the settings name."""
        widths = {"inputs": size.inputs, "outputs": size.outputs}.get(self.of)
        if widths is None or not isinstance(settings, MatrixConfig):
            return self.entries(size)
        form = cast(Form, settings.form)  # checked by the schema
        return sum(stored_numbers(width, form, settings.rank) for width in widths)

    def operations(self, size: ModelSize, labels: int) -> int:
        """Operations of a token beside the forward pass: by default half of each product of rows."""
        return self.entries(size)

    def task_problem(self, settings: Any, task: str) -> str | None:
        """Why statistics with these settings cannot be collected of models of a kind of task; None if they can."""
        return None

    def serving_problem(self, file: Any, settings: Any) -> str | None:
        """Of kinds of which any published file serves, why one cannot for these settings; None if it can."""
        return None

    def outdated(self, file: Any) -> str | None:
        """Why a file of an earlier version is collected again rather than used; None if it serves."""
        return None

    def needs_labels(self, settings: Any) -> str | None:
        """Where labels come from, a value of the setting ``labels_from``; None for kinds that need none."""
        source: str | None = getattr(settings, "labels_from", None)
        return source


KINDS: dict[str, Kind] = {}
"""Every kind of statistics by its name."""

KindType = TypeVar("KindType", bound=type[Kind])


def register_kind(kind: KindType) -> KindType:
    """Class decorator: put a kind into the table."""
    KINDS[kind.name] = kind()
    ordered = sorted(KINDS.items(), key=lambda item: (item[1].place, item[0]))
    KINDS.clear()
    KINDS.update(ordered)
    return kind

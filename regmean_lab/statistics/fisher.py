"""The diagonal of the Fisher information of a model's parameters: the statistics of Fisher merging.

``F = 1/N Σ_n E_y[(∂ log p(y|x_n) / ∂θ)²]`` (Matena and Raffel, "Merging Models with Fisher-Weighted Averaging",
NeurIPS 2022, section 3), the mean over examples of the squares of each example's own gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from .accumulator import Accumulator
from .batches import LABELS, Batch, Forward, count_examples, default_forward, device_of, move_batch, select_example
from .calls import Call, CallRecorder, gradients_at, known_modules, obstacles, shape_obstacles
from .distributed import add_up_
from .errors import StatisticsError, name_list
from .likelihood import Likelihood, count_terms, output_factors
from .per_example import Part, add_squares_
from .relative_positions import OwnRelativePositions
from .settings import LabelSource

FisherLabels: TypeAlias = Literal["expectation", "true", "pseudo", "batch_mean"]
"""Variants of the Fisher diagonal.

- expectation: over the model's own distribution of labels, exactly; the Fisher information proper.
- true: at the labels of the data (the empirical Fisher).
- pseudo: at the model's most probable labels.
- batch_mean: the square of the gradient of a batch's mean loss, averaged over the batches. Not per example: gradients
  of different examples cancel before they are squared. It exists to reproduce published figures.
"""

Mode: TypeAlias = Literal["per_example_products", "one_at_a_time"]

_CHUNK_BYTES_DEVICE = 2**26


@dataclass(frozen=True)
class FisherStatistics:
    """The Fisher diagonal of a model.

    Attributes:
        diagonals: by parameter name, of the parameter's shape, in the dtype it was summed in; for trainable
            parameters, tied ones once.
        shared: for every name of a trainable parameter the name under which its diagonal is kept, which differs from
            it where parameters are tied.
        examples: number of examples seen.
        batches: number of batches seen.
        labels_from: the variant.
        likelihood: the distribution of the labels.
        batch_mean_labels: the labels of "batch_mean".
    """

    diagonals: dict[str, Tensor]
    shared: dict[str, str]
    examples: int
    batches: int
    labels_from: FisherLabels
    likelihood: Likelihood
    batch_mean_labels: Literal["true", "pseudo"] = "true"

    @property
    def variant(self) -> str:
        """The variant and the distribution of the labels, for messages."""
        labels = f", {self.batch_mean_labels} labels" if self.labels_from == "batch_mean" else ""
        return f"'{self.labels_from}' ({self.likelihood}{labels})"

    def diagonal(self, parameter: str) -> Tensor:
        """The diagonal for ``parameter``, of its shape.

        Raises:
            StatisticsError: if there is none for this name.
        """
        if parameter not in self.shared:
            raise StatisticsError(f"no Fisher diagonal of parameter '{parameter}'; there are {name_list(self.shared)}")
        return self.diagonals[self.shared[parameter]]

    def combine(self, other: FisherStatistics) -> FisherStatistics:
        """The statistics of both sets of examples together.

        Means are weighted by the numbers of examples (of batches, for "batch_mean").

        Raises:
            StatisticsError: if the two differ in their parameters or in their variant.
        """
        if self.shared != other.shared:
            different = {name for name, _ in self.shared.items() ^ other.shared.items()}
            raise StatisticsError(
                f"cannot combine Fisher diagonals of different parameters: {name_list(sorted(different))}"
            )
        if self.variant != other.variant:
            raise StatisticsError(f"cannot combine Fisher diagonals of the variants {self.variant} and {other.variant}")
        ours, theirs = (
            (self.batches, other.batches) if self.labels_from == "batch_mean" else (self.examples, other.examples)
        )
        share = theirs / (ours + theirs)
        diagonals: dict[str, Tensor] = {}
        for name, diagonal in self.diagonals.items():
            mean = torch.lerp(diagonal.double(), other.diagonals[name].to(diagonal.device, torch.float64), share)
            diagonals[name] = mean.to(diagonal.dtype)
        return FisherStatistics(
            diagonals=diagonals,
            shared=self.shared,
            examples=self.examples + other.examples,
            batches=self.batches + other.batches,
            labels_from=self.labels_from,
            likelihood=self.likelihood,
            batch_mean_labels=self.batch_mean_labels,
        )


class FisherAccumulator(Accumulator[FisherStatistics]):
    """Collects the Fisher diagonal of a model's trainable parameters.

    ::

        model.eval()
        accumulator = FisherAccumulator(model, labels_from="expectation", kind="categorical")
        for batch in batches:
            accumulator.add(batch, batch["labels"])
        statistics = accumulator.compute()

    The examples of a batch must not influence each other. Gradients of single examples are found from a pass over the
    whole batch where the modules allow it; relative positions like those of T5, MPNet and DeBERTa 2 and 3, which all
    examples share, are copied for each. Where modules do not allow it (a parameter used outside of known modules, an
    input without the examples in its first dimension), each example is passed alone, which is as exact and slower;
    `mode` and `reasons` tell. The first batch decides.

    `add` may be called under ``torch.no_grad`` and ``torch.inference_mode``, but the model itself must have been made
    or loaded outside of inference mode: autograd cannot use inference tensors as parameters. Parameters' ``grad`` are
    left alone. A caller's autocast is respected in the forward pass; squares are always float32 or wider.

    Args:
        model: the model, in evaluation mode.
        labels_from: the variant, see `FisherLabels`.
        kind: the distribution of the labels, see `Likelihood`.
        forward: runs the model on a batch; by default calls it with all of the batch but "labels" and takes
            ``logits``. Where examples are passed alone it is called with batches of one.
        batch_mean_labels: the labels of "batch_mean": "true" or "pseudo".
        dtype: of the sums of squares: ``torch.float32`` or ``torch.float64``.
        chunk_bytes: the most memory that per-example gradients of one parameter may take at a time; one example's
            always may. None is 64 MiB on an accelerator, and on the CPU one example, whose gradients stay in the
            processor's cache until they are squared.

    Raises:
        StatisticsError: for unknown settings, or a model without trainable parameters.
    """

    title = "Fisher diagonal"
    overflowing = "gradients"
    suspects = "the weights and labels"

    def __init__(
        self,
        model: nn.Module,
        *,
        labels_from: FisherLabels = "expectation",
        kind: Likelihood = "categorical",
        forward: Forward = default_forward,
        batch_mean_labels: Literal["true", "pseudo"] = "true",
        dtype: torch.dtype = torch.float32,
        chunk_bytes: int | None = None,
    ) -> None:
        super().__init__()
        for setting, value, allowed in (
            ("labels_from", labels_from, get_args(FisherLabels)),
            ("kind", kind, get_args(Likelihood)),
            ("batch_mean_labels", batch_mean_labels, ("true", "pseudo")),
            ("dtype", dtype, (torch.float32, torch.float64)),
        ):
            if value not in allowed:
                raise StatisticsError(f"{setting}={value}: expected one of {', '.join(map(str, allowed))}")
        self._model = model
        self._labels_from = labels_from
        self._kind = kind
        self._forward = forward
        self._batch_mean_labels = batch_mean_labels
        self._label_source: LabelSource = batch_mean_labels if labels_from == "batch_mean" else labels_from
        self._dtype = dtype
        self._chunk_bytes = chunk_bytes
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not self._parameters:
            raise StatisticsError(f"{type(model).__name__} has no parameter that requires gradients")
        with torch.inference_mode(False):
            self._sums = {
                name: torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
                for name, parameter in self._parameters.items()
            }
        self._sum_by_id = {id(parameter): self._sums[name] for name, parameter in self._parameters.items()}
        self._known = known_modules(model)
        self._positions = OwnRelativePositions(model)
        self._shapes_checked = False
        self._reasons: tuple[str, ...] = ()

    @property
    def mode(self) -> Mode:
        """How the gradients of single examples are found."""
        return "one_at_a_time" if self._reasons else "per_example_products"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why examples are passed one at a time; empty if they are not."""
        return self._reasons

    def add(self, batch: Batch, labels: Tensor | None = None) -> None:
        """Add the examples of a batch.

        Args:
            batch: what ``forward`` takes: a mapping with the examples first in its tensors; moved to the model's
                device.
            labels: see `output_factors`. Needed for true labels; in the other variants they only tell what is not
                annotated.

        Raises:
            StatisticsError: if the model is in training mode or was made under inference mode, if the labels do not
                fit the logits, or if `add_up` was called.
        """
        self._check_open("add")
        self._check_model()
        examples = count_examples(batch)
        if labels is not None and len(labels) != examples:
            raise StatisticsError(f"{len(labels)} labels for a batch of {examples} examples")
        # Older versions of PyTorch would reuse weights that an outer autocast cast in a pass without gradients.
        torch.clear_autocast_cache()
        with self._whole(), torch.inference_mode(False), torch.enable_grad():
            device = device_of(self._model)
            batch = move_batch(batch, device)
            if labels is not None:
                labels = move_batch({LABELS: labels}, device)[LABELS]
            if self._labels_from == "batch_mean":
                self._add_batch_mean(batch, labels, examples)
            elif self._reasons or not self._add_products(batch, labels, examples):
                self._add_one_at_a_time(batch, labels, examples)
        self._count(examples)

    def _add_up_sums(self) -> None:
        for total in self._sums.values():
            add_up_(total)

    def compute(self, device: torch.device | str = "cpu") -> FisherStatistics:
        """The statistics of all batches so far; collecting may go on afterwards.

        Args:
            device: where the diagonals are put.

        Raises:
            StatisticsError: if there was no batch, a batch failed half-way, or a diagonal holds NaN or infinity; the
                parameters are named.
        """
        self._check_counted()
        count = self._batches if self._labels_from == "batch_mean" else self._examples
        with torch.inference_mode(False):
            diagonals = {name: (total / count).to(device) for name, total in self._sums.items()}
        self._check_finite(diagonals)
        kept = {id(parameter): name for name, parameter in self._parameters.items()}
        shared = {
            name: kept[id(parameter)]
            for name, parameter in self._model.named_parameters(remove_duplicate=False)
            if id(parameter) in kept
        }
        return FisherStatistics(
            diagonals,
            shared,
            self._examples,
            self._batches,
            labels_from=self._labels_from,
            likelihood=self._kind,
            batch_mean_labels=self._batch_mean_labels if self._labels_from == "batch_mean" else "true",
        )

    def _check_model(self) -> None:
        """Raise if the model's state does not allow exact gradients."""
        training = [name or type(module).__name__ for name, module in self._model.named_modules() if module.training]
        if training:
            raise StatisticsError(
                f"the model is in training mode ({name_list(training, 3)}), where dropout makes its gradients random; "
                "call model.eval() first"
            )
        tensors = [*self._model.named_parameters(), *self._model.named_buffers()]
        frozen = [name for name, tensor in tensors if tensor.is_inference()]
        if frozen:
            raise StatisticsError(
                f"made under torch.inference_mode, which rules out gradients: {name_list(frozen)}; make or load the "
                "model outside of it (in Lightning: Trainer(inference_mode=False))"
            )

    def _logits(self, batch: Batch, examples: int) -> Tensor:
        """The outputs for ``batch``, float32 or wider, in the autograd graph."""
        logits = self._forward(self._model, batch)
        if not logits.requires_grad:
            raise StatisticsError("the logits carry no gradient; `forward` must not detach them or disable gradients")
        if logits.dim() == 0 or logits.shape[0] != examples:
            raise StatisticsError(
                f"logits of shape {tuple(logits.shape)} for {examples} examples; `forward` must return the logits with "
                "the examples first"
            )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _factors(self, logits: Tensor, labels: Tensor | None) -> list[Tensor]:
        """The columns of `output_factors` that are not zero."""
        factors = output_factors(logits, labels, self._kind, self._label_source)
        nonzero = factors.flatten(1).any(1).tolist()
        return [factor for factor, keep in zip(factors, nonzero, strict=True) if keep]

    def _add_batch_mean(self, batch: Batch, labels: Tensor | None, examples: int) -> None:
        """Add the squared gradient of the mean log-likelihood over the batch's annotated labels."""
        logits = self._logits(batch, examples)
        terms = max(1, count_terms(logits, labels, self._kind))
        self._add_squared_gradients(logits, [factor / terms for factor in self._factors(logits, labels)])

    def _add_one_at_a_time(self, batch: Batch, labels: Tensor | None, examples: int) -> None:
        """Add the batch by a pass for each example."""
        for index in range(examples):
            logits = self._logits(select_example(batch, index, examples), 1)
            own = None if labels is None else labels[index : index + 1]
            self._add_squared_gradients(logits, self._factors(logits, own))

    def _add_squared_gradients(self, logits: Tensor, factors: Sequence[Tensor]) -> None:
        """Add the squares of the vector-Jacobian products of ``factors``, for the whole of ``logits``."""
        parameters = list(self._parameters.values())
        for number, factor in enumerate(factors, 1):
            with torch.autocast(logits.device.type, enabled=False):
                gradients = torch.autograd.grad(
                    logits, parameters, factor, retain_graph=number < len(factors), allow_unused=True
                )
            with torch.no_grad():
                for total, gradient in zip(self._sums.values(), gradients, strict=True):
                    if gradient is not None:
                        dense = gradient.to_dense().to(self._dtype)
                        total.addcmul_(dense, dense)

    def _add_products(self, batch: Batch, labels: Tensor | None, examples: int) -> bool:
        """Add the batch by passes over all of it, if that is exact; otherwise note why not and add nothing."""
        with self._positions, CallRecorder(self._known, examples) as recorder:
            logits = self._logits(batch, examples)
        reasons = obstacles(self._model, logits, recorder.calls, examples)
        if not reasons and examples > 1 and not self._shapes_checked:
            with self._positions, CallRecorder(self._known, 1) as single:
                self._logits(select_example(batch, 0, examples), 1)
            reasons = shape_obstacles(recorder.calls, single.calls)
            self._shapes_checked = True
        if reasons:
            self._reasons = tuple(reasons)
            return False
        factors = self._factors(logits, labels)
        for number, factor in enumerate(factors, 1):
            with torch.autocast(logits.device.type, enabled=False):
                gradients = gradients_at(logits, recorder.calls, factor, keep_graph=number < len(factors))
                with torch.no_grad():
                    self._add_parts(recorder.calls, gradients, examples, torch.promote_types(factor.dtype, self._dtype))
        return True

    def _add_parts(
        self, calls: Sequence[Call], gradients: Sequence[Tensor | None], examples: int, dtype: torch.dtype
    ) -> None:
        """Add the squared per-example gradients of all parameters, given the gradients at the outputs of ``calls``."""
        parts: dict[int, list[Part]] = {}
        for call, gradient in zip(calls, gradients, strict=True):
            if gradient is not None:
                for parameter, part in call.parts(gradient, dtype):
                    parts.setdefault(id(parameter), []).append(part)
        for parameter_id, own_parts in parts.items():
            total = self._sum_by_id[parameter_id]
            chunk_bytes = self._chunk_bytes
            if chunk_bytes is None:
                chunk_bytes = 0 if total.device.type == "cpu" else _CHUNK_BYTES_DEVICE
            add_squares_(total, own_parts, examples, chunk_bytes)

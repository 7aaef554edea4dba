"""Settings of the kinds of statistics that the package has.

Nothing here imports PyTorch: the command's help, completion and checks of names need the settings, and do not wait for
it. A kind of your own has its settings in its own file, see docs/adding/kind.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from typing_extensions import override

from regmean_lab.utils.checks import at_least_one, fraction, one_of

STORAGES = ("full", "packed")
"""Forms of files of matrices that hold all numbers."""

LabelSource: TypeAlias = Literal["expectation", "true", "pseudo"]
"""Where the labels come from: the model's own distribution, the data, or the model's most probable label."""

BATCH_LABEL_SOURCES = ("batch_mean", "batch_hard", "batch_loss")
"""Sources of labels for Fisher information that squares gradients of batches, not of examples."""

LOSSY_FORMS = ("diagonal", "low_rank")
"""Forms of matrices that keep less than all of them."""
PRECISIONS = ("float32", "tf32", "bf16")
LIGHTNING_NAMES = {"float32": "32-true"}
"""What names of files call a precision of the setting ``precision``, where Lightning has a name for the same."""


@dataclass(frozen=True)
class WrittenAnswers:
    """How a model writes answers in the batches that count towards statistics of layers' inputs.

    Attributes:
        tokens: most tokens of an answer.
        padding: whether what comes after an answer's end counts too, up to the end of the batch's longest answer.
    """

    tokens: int
    padding: bool = False


@dataclass
class KindConfig:
    """How statistics of a kind are collected: what every kind has, the base of each kind's own settings.

    Attributes:
        examples: number of training examples of each member; None is all of them.
        batches: the same counted in batches of ``training.batch_size``; overrides ``examples``.
    """

    examples: int | None = 16000
    batches: int | None = None

    def problems(self) -> list[str]:
        """What is wrong with the settings: one message each, beginning with the setting's name."""
        return [
            f"{name}: expected at least 1 or null, got {value}"
            for name, value in (("examples", self.examples), ("batches", self.batches))
            if value is not None and value < 1
        ]

    def describe(self, description: dict[str, Any]) -> dict[str, Any]:
        """What a file's name is a hash of, given all settings and what else determines the statistics."""
        return description

    @property
    def drawn_order(self) -> bool:
        """Whether batches are made in the order in which examples are drawn, rather than of like lengths."""
        return False

    @property
    def groups_matter(self) -> bool:
        """Whether the result depends on how examples are grouped into batches."""
        return self.drawn_order

    @property
    def most_tokens(self) -> int | None:
        """Stop drawing examples once they have this many tokens; None sets no such limit."""
        return None

    @property
    def passes(self) -> int:
        """How often each example is counted."""
        return 1

    @property
    def stops_early(self) -> bool:
        """Whether collection stops by a rule: each batch then depends on those before it."""
        return False

    @property
    def own_precision(self) -> str | None:
        """The precision that the kind itself sets in its passes; None takes the trainer's."""
        return None

    @property
    def is_private(self) -> bool:
        """Whether a file has a guarantee of differential privacy: to make it again spends as much of the budget again.

        It tells nothing else of the data, such as their hash.
        """
        return False

    @property
    def serves_any(self) -> bool:
        """Whether a published file serves whatever its settings: they say how much it tells, and not of what."""
        return False


@dataclass
class MatrixConfig(KindConfig):
    """How much of a layer's matrix is kept, for kinds that have one.

    Attributes:
        form: ``full``, ``diagonal`` or ``low_rank`` (the diagonal, and ``rank`` vectors for what is beside it: see
            `regmean_lab.statistics.forms`).
        rank: of the form ``low_rank``.
    """

    form: str = "full"
    rank: int | None = None

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        one_of("form", self.form, ("full", *LOSSY_FORMS), found)
        if self.form == "low_rank" and self.rank is None:
            found.append("rank: required with form=low_rank; for example rank=64")
        if self.rank is not None:
            at_least_one("rank", self.rank, found)
            if self.form != "low_rank":
                found.append(f"rank: is for form=low_rank, got form={self.form}")
        return found


@dataclass
class GramConfig(MatrixConfig):
    """How Gram matrices are collected.

    Attributes:
        examples: number of training examples of each member; None is all of them.
        batches: the same counted in batches of ``training.batch_size``, as published systems state it; overrides
            ``examples``.
        count_padding: count padding tokens as rows. Batches are then made of ``training.batch_size`` examples in the
            order in which these are drawn, and padded to their longest.
        extra_rows: count inputs that are no tokens of the batch (relative positions of DeBERTa), once a batch; batches
            are made as for ``count_padding``.
        generation: for answers in words, count each question a second time, with what the model itself writes in place
            of the right answer.
        generated_tokens: most tokens that the model writes, for ``generation``.
        generated_padding: for ``generation``, count also the rows after an answer's end, up to the end of the batch's
            longest: while that is written, the others get padding. Batches are made as for ``count_padding``.
        tokens: stop drawing examples once they have this many tokens; None sets no such limit.
        tolerance: stop when no matrix has changed by more than this share of its norm since there were half as many
            examples; None uses all of them.
        precision: ``bf16`` (forward pass and products in bfloat16, summed in float32), ``tf32`` (the same on GPUs with
            TensorFloat-32), ``float32``, or None: the forward pass as ``trainer.precision`` says, products in float32.
    """

    count_padding: bool = False
    extra_rows: bool = False
    generation: bool = False
    generated_tokens: int = 4
    generated_padding: bool = False
    tokens: int | None = None
    tolerance: float | None = None
    precision: str | None = None

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        if self.tokens is not None and self.tokens < 1:
            found.append(f"tokens: expected at least 1 or null, got {self.tokens}")
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance > 0):
            found.append(f"tolerance: expected a positive number or null, got {self.tolerance}")
        at_least_one("generated_tokens", self.generated_tokens, found)
        if self.generated_padding and not self.generation:
            found.append("generated_padding: is for gram.generation=true, which is not set")
        if self.precision is not None:
            one_of("precision", self.precision, PRECISIONS, found)
        return found

    def describe(self, description: dict[str, Any]) -> dict[str, Any]:
        """Its own precision in place of the trainer's; without ``tokens`` and ``tolerance`` where they are not set."""
        if self.precision is not None:
            description["precision"] = LIGHTNING_NAMES.get(self.precision, self.precision)
        # What is not asked for is left out, so that files keep the names that they had before there was the choice.
        unset = [name for name in ("tokens", "tolerance") if getattr(self, name) is None]
        return {name: value for name, value in description.items() if name not in unset}

    @property
    def drawn_order(self) -> bool:
        """So where rows of padding count: how many there are depends on which examples share a batch.

        Rows that a batch brings once, whatever its size, depend on the number of batches.
        """
        return self.count_padding or self.extra_rows or (self.generation and self.generated_padding)

    @property
    def most_tokens(self) -> int | None:
        """The setting ``tokens``."""
        return self.tokens

    @property
    def passes(self) -> int:
        """Twice where answers are written."""
        return 2 if self.generation else 1

    @property
    def stops_early(self) -> bool:
        """With a tolerance."""
        return self.tolerance is not None

    @property
    def own_precision(self) -> str | None:
        """The setting ``precision``."""
        return self.precision

    @property
    def written(self) -> WrittenAnswers | None:
        """How a model writes answers whose layer inputs count; None if it need not."""
        if not self.generation:
            return None
        return WrittenAnswers(self.generated_tokens, self.generated_padding or self.count_padding)


@dataclass
class FisherConfig(KindConfig):
    """How diagonal Fisher information is collected.

    Attributes:
        examples: number of training examples of each member; None is all of them.
        batches: the same counted in batches of ``training.batch_size``; overrides ``examples``.
        labels_from: ``expectation`` over the model's own labels (exact), the ``true`` labels, or ``pseudo`` labels (the
            model's most likely ones): squares of the gradients of single examples. Or the square of the gradient of a
            mean over ``training.batch_size`` examples: ``batch_mean`` of the log-likelihood of the true labels;
            ``batch_hard``, as published for emotion and GLUE, of the log-probability of the argmax class among
            all outputs (of a regression: the squared error); ``batch_loss``, as published for NER, T5 and GPT-2, of the
            model's own loss.
    """

    labels_from: str = "expectation"

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        one_of("labels_from", self.labels_from, (*get_args(LabelSource), *BATCH_LABEL_SOURCES), found)
        return found

    @property
    def drawn_order(self) -> bool:
        """As published, for two of the variants that square gradients of batches."""
        return self.labels_from in ("batch_hard", "batch_loss")

    @property
    def groups_matter(self) -> bool:
        """For all variants that square gradients of batches."""
        return self.labels_from in BATCH_LABEL_SOURCES


@dataclass
class GradientGramConfig(MatrixConfig):
    """How Gram matrices of the gradients at layers' outputs are collected.

    Attributes:
        examples: number of training examples of each member; None is all of them.
        batches: the same counted in batches of ``training.batch_size``; overrides ``examples``.
        labels_from: ``expectation`` over the model's own labels (exact), the ``true`` labels, or ``pseudo`` labels (the
            model's most likely ones).
        count_padding: count padding tokens as rows; batches are then made as for Gram matrices of inputs.
        extra_rows: count outputs that are no tokens of the batch (relative positions of DeBERTa); likewise.
    """

    examples: int | None = 1000
    labels_from: str = "expectation"
    count_padding: bool = False
    extra_rows: bool = False

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        one_of("labels_from", self.labels_from, get_args(LabelSource), found)
        return found

    @property
    def drawn_order(self) -> bool:
        """Where rows count whose number depends on which examples share a batch."""
        return self.count_padding or self.extra_rows


@dataclass
class WeightedGramConfig(MatrixConfig):
    """How loss-weighted Gram matrices are collected; labels are not needed.

    Attributes:
        examples: number of training examples of each member; None is all of them.
        batches: the same counted in batches of ``training.batch_size``; overrides ``examples``.
        plain_share: κ, the share of the plain Gram matrix that is mixed in.
        draws: most backward passes of a batch. Up to so many labels (one more, where one of them is chosen) are
            weighted exactly; more, and scores for each token, by as many draws of random signs.
        sign_seed: of these signs.
    """

    examples: int | None = 1000
    plain_share: float = 0.01
    draws: int = 4
    sign_seed: int = 0

    @override
    def problems(self) -> list[str]:
        found = super().problems()
        fraction("plain_share", self.plain_share, found)
        at_least_one("draws", self.draws, found)
        return found

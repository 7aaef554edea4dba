"""What all task modules share: optimisation, dev scores, and the predictions of a test run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MetricCollection

from regmean_lab.metrics.metrics import build_metrics, percentages, predictions
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.models.task_models import TaskModel
from regmean_lab.modules.optimization import Optimization
from regmean_lab.statistics import Collection, FisherLabels, Likelihood, Mask, Scores, StatisticsError
from regmean_lab.statistics.settings import WrittenAnswers as WrittenAnswers
from regmean_lab.statistics.vocabulary import Vocabulary
from regmean_lab.suites.base import IGNORED, Task
from regmean_lab.suites.pseudo_text import vocabulary_of
from regmean_lab.tracking.names import DEV_SCORE
from regmean_lab.utils.registry import ByKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Predictions:
    """Everything a model says about one data set, in the order of its data loader.

    Attributes:
        logits: shape [examples, labels] (of tokens [examples, tokens, labels]; of answers [examples, 2]), float32, on
            the CPU.
        labels: shape [examples], [examples, labels] or [examples, tokens] (of answers [examples, 2]: the right answer,
            and the id of the label that is asked about), on the CPU.
    """

    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class FisherObjective:
    """What a module's Fisher information is of: arguments of :func:`regmean_lab.statistics.collect_fisher`.

    Attributes:
        likelihood: the distribution of the labels.
        outputs: the model's outputs for a batch, which give that distribution; with gradients.
        labels: the labels of a batch, or None where none are needed and none is left out.
        labels_from: the variant.
        batch_mean_labels: the labels of the variant "batch_mean".
    """

    likelihood: Likelihood
    outputs: Callable[[Batch], Tensor]
    labels: Callable[[Batch], Tensor] | None
    labels_from: FisherLabels
    batch_mean_labels: Literal["true", "pseudo"] = "true"

    def with_labels(self, batch: Batch) -> dict[str, Tensor]:
        """The batch with these labels in place of its own."""
        others = {name: value for name, value in batch.items() if name != "labels"}
        return others if self.labels is None else {**others, "labels": self.labels(batch)}


_MODULES: ByKind[TaskModule] = ByKind()
register_module = _MODULES.register
"""Class decorator: make a module the one for some kinds of task."""


def module_type(task: Task) -> type[TaskModule]:
    """The module for a task."""
    return _MODULES[task.kind]


class TrainableModule(pl.LightningModule):
    """What training needs of a module.

    Args:
        optimization: how it is trained; None for a module that is only evaluated.

    Attributes:
        dev_scores: all metrics of the last validation (times 100), :attr:`key_score` among them.
    """

    def __init__(self, optimization: Optimization | None = None) -> None:
        super().__init__()
        self.optimization = optimization
        self.dev_scores: dict[str, float] = {}

    @property
    @abstractmethod
    def key_score(self) -> str:
        """Name of the metric that is logged as ``dev/score``."""

    def padding_mask(self, batch: Any) -> Mask:
        """Which rows of layers' inputs in a training batch are real tokens; None where all of them may count."""
        return None

    def log_dev_scores(self, scores: dict[str, float]) -> None:
        """Log all metrics of a validation, and the key score as ``dev/score``."""
        self.dev_scores = scores
        self.log_dict({f"dev/{name}": value for name, value in scores.items()})
        self.log(DEV_SCORE, scores[self.key_score], prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with its schedule, stepped after every optimizer step."""
        if self.optimization is None:
            raise RuntimeError("this module was made for evaluation only: it has no optimization settings")
        trained = (parameter for parameter in self.parameters() if parameter.requires_grad)
        # Float16 needs its gradients unscaled before they are clipped, which the fused kernel does by itself too late.
        optimizer = self.optimization.optimizer(trained, fused=self.trainer.precision != "16-mixed")
        scheduler = self.optimization.scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the gradient; in bf16, whose gradients are not scaled, without Lightning's refusal."""
        if self.trainer.precision == "bf16-mixed" and gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


class TaskModule(TrainableModule, TaskModel):
    """Trains and tests one Hugging Face model on one task.

    Batches are dicts of tensors: the model's inputs, and ``labels``.

    Args:
        model: the model, with a head for the task.
        task: what it predicts.
        optimization: how it is trained; None for a module that is only evaluated.

    Attributes:
        collection: while statistics are collected, what a test run does with its batches in place of predicting.
    """

    def __init__(self, model: PreTrainedModel, task: Task, optimization: Optimization | None = None) -> None:
        super().__init__(optimization)
        self.model = model
        self.task = task
        self._dev_metrics: list[MetricCollection] = []
        self._collected: list[list[tuple[Tensor, Tensor]]] = []
        self.collection: Collection | None = None

    @property
    def key_score(self) -> str:
        """The task's."""
        return self.task.key_score

    def save(self, folder: Path) -> None:
        """Write the model as ``load_model`` reads it, its tensors named as the model names them."""
        with quiet_transformers():
            # Not as an old checkpoint named them (``LayerNorm.gamma``), which transformers would go back to.
            self.model.save_pretrained(folder, save_original_format=False)

    @property
    @abstractmethod
    def likelihood(self) -> Likelihood:
        """Distribution of the labels, which Fisher information is of."""

    def with_answers(self, batch: Batch) -> Batch:
        """A batch of texts alone, with what a model that writes needs besides: what it writes itself."""
        return batch

    def gram_batches(self, batch: Batch, written: WrittenAnswers | None) -> Iterator[Batch]:
        """The batches that count towards Gram matrices: the batch, and where answers are written, one with those."""
        yield batch

    def gram_pass(self, batch: Batch) -> None:
        """Run the model on a batch so that its linear layers get the inputs that count towards Gram matrices."""
        self(batch)

    def gram_mask(self, batch: Batch) -> Mask:
        """Which rows of layers' inputs in :meth:`gram_pass` are real tokens."""
        return batch["attention_mask"]

    def gradient_mask(self, batch: Batch) -> Mask:
        """Which rows of layers' outputs in :meth:`forward` are real tokens."""
        return batch["attention_mask"]

    def padding_mask(self, batch: Batch) -> Mask:
        """As :meth:`gradient_mask`."""
        return self.gradient_mask(batch)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the data on which the module is evaluated."""
        tokenizer: PreTrainedTokenizerBase = self._collator().tokenizer
        return tokenizer

    def texts_per_example(self) -> int:
        """2 where the data on which the module is evaluated are pairs of texts, otherwise 1."""
        return int(getattr(self._collator(), "texts", 1))

    def _collator(self) -> Any:
        trainer = self.trainer
        loaders: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        loader = loaders[0] if isinstance(loaders, list) else loaders
        return loader.collate_fn

    def vocabulary(self) -> Vocabulary:
        """That of the data on which the module is evaluated."""
        return vocabulary_of(self.tokenizer())

    def label_count(self) -> int:
        """Number of the task's labels."""
        return len(self.task.labels)

    def predicted_labels(self, batch: Batch) -> Tensor:
        """The most probable label of each example [examples], int64.

        Raises:
            StatisticsError: unless one label for each text is what the module predicts.
        """
        if self.task.kind != "single_label":
            raise StatisticsError(f"{type(self).__name__} does not give each text one label")
        with torch.no_grad():
            return self(batch).argmax(-1)

    def fisher_labels(self, batch: Batch) -> Tensor:
        """Labels distributed according to :attr:`likelihood`."""
        return batch["labels"]

    def scores(self, batch: Batch) -> Scores:
        """What the model decides by, with gradients: its logits, without those that no label is asked of."""
        labels, kind = self.fisher_labels(batch), self.likelihood
        counted = labels != IGNORED if kind in ("categorical", "bernoulli") else None
        return Scores(self(batch), kind == "categorical", counted)

    def fisher_objective(self, labels_from: str) -> FisherObjective:
        """What Fisher information is of.

        Args:
            labels_from: a value of ``statistics.fisher.labels_from``.

        Raises:
            StatisticsError: for "batch_hard", unless one label for each text is what the module predicts.
        """
        if labels_from == "batch_hard":
            raise StatisticsError(
                f"labels_from=batch_hard: takes one label for each text, which {type(self).__name__} does not predict"
            )
        # The likelihood of the labels is the loss, but for modules that say otherwise.
        source: Any = "batch_mean" if labels_from == "batch_loss" else labels_from
        return FisherObjective(self.likelihood, self, self.fisher_labels, source)

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Logits of a batch, with gradients."""

    def evaluate(self, batch: Batch) -> Tensor:
        """Logits of a batch in validation and testing: what the task's metrics are computed from."""
        logits: Tensor = self(batch)
        return logits

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch, a scalar."""

    def batch_loss(self, batch: Batch) -> Tensor:
        """Mean loss of a batch, a scalar: what training minimises."""
        return self.loss(self(batch), batch["labels"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss = self.batch_loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["labels"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's counts."""
        loaders: Any = self.trainer.val_dataloaders
        count = len(loaders) if isinstance(loaders, Sequence) else 1
        self._dev_metrics = [build_metrics(self.task).to(self.device) for _ in range(count)]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count one batch of a dev set."""
        self._dev_metrics[dataloader_idx].update(predictions(self.task, self.evaluate(batch)), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Log every metric's mean over the dev sets, and the key score as ``dev/score``."""
        scores = [percentages(self.task, metrics) for metrics in self._dev_metrics]
        self.log_dev_scores({name: sum(part[name] for part in scores) / len(scores) for name in scores[0]})

    def on_test_epoch_start(self) -> None:
        """Forget the last run's predictions."""
        loaders: Any = self.trainer.test_dataloaders
        count = len(loaders) if isinstance(loaders, Sequence) else 1
        self._collected = [[] for _ in range(count)]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep one batch's logits and labels; or count it, while statistics are collected."""
        if self.collection is not None:
            self.collection.add(batch)
            return
        self._collected[dataloader_idx].append((self.evaluate(batch).float().cpu(), batch["labels"].cpu()))

    def predictions(self) -> list[Predictions]:
        """Predictions of the last test run, one for each data loader in order."""
        return [
            Predictions(self.join([logits for logits, _ in part]), self.join([labels for _, labels in part]))
            for part in self._collected
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Logits, or labels, of several batches as one tensor."""
        return torch.cat(list(parts))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Logits of a batch."""
        return self.evaluate(batch)

"""Models that only read texts: encoders, embedding models, and models with heads whose labels are not needed.

They are run for what goes into their linear layers, and are neither trained nor tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regmean_lab.models.sentence_layers import SentenceLayers
from regmean_lab.models.task_models import BareModel
from regmean_lab.modules.base import Batch, TaskModule, register_module
from regmean_lab.statistics import Likelihood, Scores, StatisticsError
from regmean_lab.suites.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NO_LABELS = "a model that only reads texts has no labels: neither a loss nor Fisher information; expected kinds=[gram]"


@register_module("unlabelled")
class ReadingModule(BareModel, TaskModule):
    """Runs a model on texts, pairs of texts, or a context with each of several choices.

    Args:
        model: the model.
        task: says what is read.
        on_top: what follows the transformer of an embedding model; its linear layers become layers of the model.
    """

    def __init__(self, model: PreTrainedModel, task: Task, on_top: SentenceLayers | None = None) -> None:
        super().__init__(model, task)
        self.on_top = on_top
        for path, module in on_top.named_children() if on_top is not None else ():
            # Under the name of its folder, as it is called when checkpoints are merged.
            model.add_module(path, module)

    @property
    def likelihood(self) -> Likelihood:
        """There is none.

        Raises:
            StatisticsError: always: such models have no labels.
        """
        raise StatisticsError(_NO_LABELS)

    def forward(self, batch: Batch) -> Tensor:
        """What the model gives first: vectors of tokens, logits, or with modules on top embeddings [batch, outputs]."""
        outputs: Tensor = self._run(batch)[0]
        return outputs if self.on_top is None else self.on_top(outputs, batch["attention_mask"])

    def scores(self, batch: Batch) -> Scores:
        """What the model gives: starts and ends of answers, tokens, a score of each choice, or vectors as they are."""
        read = batch["attention_mask"]
        if self.on_top is not None:
            return Scores(self(batch), False)
        outputs = self._run(batch)
        if self.task.labels == ("pairs",):
            ends = torch.stack([outputs.start_logits, outputs.end_logits], 1)
            return Scores(ends, True, read.unsqueeze(1).expand(ends.shape))
        if self.task.labels == ("choices",):
            return Scores(outputs.logits, False)
        logits = getattr(outputs, "logits", None)
        return Scores(outputs[0], logits is not None, read)

    def _run(self, batch: Batch) -> Any:
        inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
        if self.task.labels == ("choices",):  # each choice is an example of its own
            inputs = {name: value.unsqueeze(1) for name, value in inputs.items()}
        return self.model(**inputs)

    def gram_pass(self, batch: Batch) -> None:
        """One pass; an encoder has inputs for all layers."""
        with torch.no_grad():
            self(batch)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """There is none.

        Raises:
            StatisticsError: always: such models have no labels.
        """
        raise StatisticsError(_NO_LABELS)

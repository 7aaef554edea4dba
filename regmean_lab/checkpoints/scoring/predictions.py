"""What a checkpoint predicts on each corpus, in the order of the examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from regmean_lab.checkpoints.publishing.corpus import OneCorpus
from regmean_lab.checkpoints.scoring.models import ScoredModel
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.evaluation.scores import predict
from regmean_lab.modules import Predictions
from regmean_lab.suites.data_module import CorpusDataModule, example_order
from regmean_lab.suites.evaluations import Evaluation
from regmean_lab.training.trainers import test_trainer

PREDICTIONS_FILE = "predictions.safetensors"


def predict_all(
    model: ScoredModel,
    evaluations: Sequence[Evaluation],
    trainer: TrainerConfig,
    *,
    batch_size: int,
    max_length: int | None,
) -> dict[str, Predictions]:
    """Test a checkpoint; its predictions by the name of the evaluation, rows in the order of the examples.

    Args:
        model: the checkpoint, whose weights are read now and let go of afterwards.
        evaluations: examples, with labels as the checkpoint numbers them.
        trainer: device and precision.
        batch_size: examples in a batch.
        max_length: texts are cut to so many tokens; None: to as many as the model is read with by default.
    """
    data = CorpusDataModule(
        OneCorpus([], evaluations[0].task),
        model.tokenizer,
        batch_size=batch_size,
        eval_batch_size=batch_size,
        max_length=model.max_length(max_length),
        seed=0,
        evaluations=evaluations,
        num_workers=trainer.workers,
    )
    loaders = data.test_dataloader()
    predicted = predict(test_trainer(trainer), model.module(evaluations[0].task), loaders)
    return {
        evaluation.name: _in_order(part, example_order(loader))
        for evaluation, part, loader in zip(evaluations, predicted, loaders, strict=True)
    }


def _in_order(predicted: Predictions, order: Sequence[int]) -> Predictions:
    """Rows as the examples come; a loader sorts them by length."""
    back = torch.tensor(list(order)).argsort()
    return Predictions(predicted.logits[back], predicted.labels[back])

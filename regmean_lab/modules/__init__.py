"""LightningModules: one for each form of task."""

from __future__ import annotations

from regmean_lab.modules.base import Predictions, TaskModule
from regmean_lab.modules.optimization import Optimization
from regmean_lab.modules.sequence_classification import SequenceClassificationModule

__all__ = ["Optimization", "Predictions", "SequenceClassificationModule", "TaskModule"]

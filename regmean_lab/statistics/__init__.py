"""Statistics of models on data, in pure PyTorch: Gram matrices for RegMean and Fisher diagonals for Fisher merging.

Collect with `collect_gram` and `collect_fisher` (or, from inside another loop, with `GramAccumulator` and
`FisherAccumulator`), keep with `save_gram` and `save_fisher`, read with `GramFile` and `FisherFile`.
"""

from __future__ import annotations

from .batches import Batch, Forward, call_model, default_forward
from .collect import collect_fisher, collect_gram
from .errors import StatisticsError
from .fisher import FisherAccumulator, FisherLabels, FisherStatistics
from .gram import GramAccumulator, GramStatistics
from .layers import is_conv1d, is_linear, linear_layers
from .likelihood import IGNORED, LabelSource, Likelihood, output_factors
from .products import add_gram_, mirror_upper_
from .rows import Mask, RowSelection
from .store import FisherFile, GramFile, StatisticsFile, check_finite, save_fisher, save_gram

__all__ = [
    "IGNORED",
    "Batch",
    "FisherAccumulator",
    "FisherFile",
    "FisherLabels",
    "FisherStatistics",
    "Forward",
    "GramAccumulator",
    "GramFile",
    "GramStatistics",
    "LabelSource",
    "Likelihood",
    "Mask",
    "RowSelection",
    "StatisticsError",
    "StatisticsFile",
    "add_gram_",
    "call_model",
    "check_finite",
    "collect_fisher",
    "collect_gram",
    "default_forward",
    "is_conv1d",
    "is_linear",
    "linear_layers",
    "mirror_upper_",
    "output_factors",
    "save_fisher",
    "save_gram",
]

"""Statistics of models on data, in pure PyTorch.

Gram matrices of layers' inputs for RegMean, of the gradients at their outputs for MaTS, Fisher diagonals for Fisher
merging. Collect with `collect_gram`, `collect_gradient_gram` and `collect_fisher` (or, from inside another loop, with
`GramAccumulator`, `GradientGramAccumulator` and `FisherAccumulator`), keep with `save_gram`, `save_gradient_gram` and
`save_fisher`, read with `GramFile`, `GradientGramFile` and `FisherFile`.
"""

from __future__ import annotations

from .accumulator import Accumulator
from .batches import Batch, Forward, call_model, default_forward
from .convergence import ConvergenceRule, doubling_rounds
from .distributed import gather, rank, world_size
from .errors import StatisticsError
from .experts import FusedExperts, expert_layers, fused_experts
from .finite import all_finite
from .fisher import FisherAccumulator, FisherLabels, FisherStatistics
from .forms import FORMS, Form
from .gradient_gram import GradientGramAccumulator, GradientGramStatistics
from .gram import GramAccumulator, GramStatistics
from .kinds import KINDS, Collection, Kind, KindConfig, LayerStatistics, TaskModel, register_kind
from .kinds.fisher import FisherConfig, FisherFile, collect_fisher, save_fisher
from .kinds.gradient_gram import GradientGramConfig, GradientGramFile, collect_gradient_gram, save_gradient_gram
from .kinds.gram import GramConfig, GramFile, collect_gram, save_gram
from .layers import is_conv1d, is_linear, linear_layers
from .likelihood import IGNORED, LabelSource, Likelihood, output_factors
from .products import add_gram_, mirror_upper_
from .rows import Mask, RowSelection
from .store import LayerFile, MatrixFile, StatisticsFile, check_finite, write_matrices, write_statistics

__all__ = [
    "FORMS",
    "IGNORED",
    "KINDS",
    "Accumulator",
    "Batch",
    "Collection",
    "ConvergenceRule",
    "FisherAccumulator",
    "FisherConfig",
    "FisherFile",
    "FisherLabels",
    "FisherStatistics",
    "Form",
    "Forward",
    "FusedExperts",
    "GradientGramAccumulator",
    "GradientGramConfig",
    "GradientGramFile",
    "GradientGramStatistics",
    "GramAccumulator",
    "GramConfig",
    "GramFile",
    "GramStatistics",
    "Kind",
    "KindConfig",
    "LabelSource",
    "LayerFile",
    "LayerStatistics",
    "Likelihood",
    "Mask",
    "MatrixFile",
    "RowSelection",
    "StatisticsError",
    "StatisticsFile",
    "TaskModel",
    "add_gram_",
    "all_finite",
    "call_model",
    "check_finite",
    "collect_fisher",
    "collect_gradient_gram",
    "collect_gram",
    "default_forward",
    "doubling_rounds",
    "expert_layers",
    "fused_experts",
    "gather",
    "is_conv1d",
    "is_linear",
    "linear_layers",
    "mirror_upper_",
    "output_factors",
    "rank",
    "register_kind",
    "save_fisher",
    "save_gradient_gram",
    "save_gram",
    "world_size",
    "write_matrices",
    "write_statistics",
]

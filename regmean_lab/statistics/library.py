"""What :mod:`regmean_lab.statistics` offers, in one list: importing this file imports PyTorch."""

from __future__ import annotations

from .accumulator import Accumulator
from .batches import Batch, Forward, call_model, default_forward
from .block_weights import ReadWeight
from .blockwise import FinishedBlock, gram_by_blocks
from .convergence import ConvergenceRule, doubling_rounds
from .distributed import gather, rank, world_size
from .errors import StatisticsError
from .experts import FusedExperts, expert_layers, fused_experts
from .finite import all_finite
from .fisher import FisherAccumulator, FisherLabels, FisherStatistics
from .forms import FORMS, Form
from .gradient_gram import GradientGramAccumulator, GradientGramStatistics
from .gram import GramAccumulator, GramStatistics
from .held_outputs import HeldOutputs
from .kinds import KINDS, Collection, Kind, LayerStatistics, TaskModel, register_kind
from .kinds.fisher import FisherFile, collect_fisher, save_fisher
from .kinds.gradient_gram import GradientGramFile, collect_gradient_gram, save_gradient_gram
from .kinds.gram import GramFile, collect_gram, save_gram
from .kinds.tokens import TokensFile, collect_tokens, save_tokens
from .kinds.weighted_gram import WeightedGramFile, collect_weighted_gram, save_weighted_gram
from .layers import is_conv1d, is_linear, linear_layers
from .likelihood import IGNORED, Likelihood, output_factors
from .products import add_gram_, mirror_upper_
from .pseudo_text import PseudoText
from .rows import Mask, RowSelection
from .scores import Scores
from .settings import FisherConfig, GradientGramConfig, GramConfig, KindConfig, LabelSource, WeightedGramConfig
from .store import LayerFile, MatrixFile, StatisticsFile, check_finite, write_matrices, write_statistics
from .token_counter import TokenStatistics
from .token_counts import TokenCounts
from .token_settings import TokensConfig
from .vocabulary import Vocabulary
from .weighted_gram import WeightedGramAccumulator, WeightedGramStatistics
from .writing import MatrixWriter, matrix_writer

__all__ = [
    "FORMS",
    "IGNORED",
    "KINDS",
    "Accumulator",
    "Batch",
    "Collection",
    "ConvergenceRule",
    "FinishedBlock",
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
    "HeldOutputs",
    "Kind",
    "KindConfig",
    "LabelSource",
    "LayerFile",
    "LayerStatistics",
    "Likelihood",
    "Mask",
    "MatrixFile",
    "MatrixWriter",
    "PseudoText",
    "ReadWeight",
    "RowSelection",
    "Scores",
    "StatisticsError",
    "StatisticsFile",
    "TaskModel",
    "TokenCounts",
    "TokenStatistics",
    "TokensConfig",
    "TokensFile",
    "Vocabulary",
    "WeightedGramAccumulator",
    "WeightedGramConfig",
    "WeightedGramFile",
    "WeightedGramStatistics",
    "add_gram_",
    "all_finite",
    "call_model",
    "check_finite",
    "collect_fisher",
    "collect_gradient_gram",
    "collect_gram",
    "collect_tokens",
    "collect_weighted_gram",
    "default_forward",
    "doubling_rounds",
    "expert_layers",
    "fused_experts",
    "gather",
    "gram_by_blocks",
    "is_conv1d",
    "is_linear",
    "linear_layers",
    "matrix_writer",
    "mirror_upper_",
    "output_factors",
    "rank",
    "register_kind",
    "save_fisher",
    "save_gradient_gram",
    "save_gram",
    "save_tokens",
    "save_weighted_gram",
    "world_size",
    "write_matrices",
    "write_statistics",
]

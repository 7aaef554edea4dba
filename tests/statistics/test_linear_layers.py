from __future__ import annotations

import pytest
import torch
from statistics_models import classifier
from torch import nn
from transformers.pytorch_utils import Conv1D as HuggingFaceConv1D

from regmean_lab.statistics import StatisticsError, is_conv1d, is_linear, linear_layers
from regmean_lab.statistics.layers import select_layers


def test_kinds_of_linear_layers() -> None:
    assert is_linear(nn.Linear(2, 3))
    assert is_linear(HuggingFaceConv1D(3, 2))
    assert not is_linear(nn.Conv1d(2, 3, 1))
    assert not is_linear(nn.Embedding(2, 3))
    assert is_conv1d(HuggingFaceConv1D(3, 2))
    assert not is_conv1d(nn.Linear(2, 3))


def test_something_else_called_conv1d_is_not_a_linear_layer() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nf = 3
            self.weight = nn.Parameter(torch.zeros(3, 2, 5))

    assert not is_linear(Conv1D())


def test_layers_of_gpt2_are_found_in_the_order_of_the_model() -> None:
    names = list(linear_layers(classifier("gpt2")))
    block = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert names == [f"transformer.h.{number}.{part}" for number in (0, 1) for part in block] + ["score"]


def test_selection_keeps_the_order_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))
    assert list(select_layers(model, ["3", "0"])) == ["0", "3"]


def test_all_unknown_names_are_told_at_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(StatisticsError, match="'1', 'body'; it has '0'"):
        select_layers(model, ["0", "1", "body"])


def test_a_model_without_linear_layers() -> None:
    with pytest.raises(StatisticsError, match="no linear layer"):
        select_layers(nn.ReLU(), None)
    with pytest.raises(StatisticsError, match="no linear layer"):
        select_layers(nn.Linear(1, 1), [])

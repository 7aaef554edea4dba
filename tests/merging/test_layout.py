from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from regmean_lab.merging import LinearLayer
from regmean_lab.merging.layout import layout_of
from regmean_lab.models.pico import pico_folder

HEADS = {
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "distilbert": "classifier",
    "deberta_v2": "classifier",
}


def pico(architecture: str, folder: Path, labels: int) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(pico_folder(architecture, folder), num_labels=labels)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model


@pytest.mark.parametrize("architecture", HEADS)
@pytest.mark.parametrize("labels", [3, 16])
def test_linear_layers_and_label_outputs_of_an_architecture(architecture: str, labels: int, tmp_path: Path) -> None:
    """With 16 labels the head is as wide as the hidden layers: the last layer is still the one that is found."""
    model = pico(architecture, tmp_path, labels)
    layout = layout_of(model, labels)
    expected = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {layer.name for layer in layout.linear.values()} == expected
    assert all(name == f"{layer.name}.weight" and not layer.transposed for name, layer in layout.linear.items())
    assert layout.label_outputs == {f"{HEADS[architecture]}.weight", f"{HEADS[architecture]}.bias"}
    assert layout_of(model).label_outputs == frozenset()
    assert layout_of(model, 5).label_outputs == frozenset()


@pytest.mark.parametrize("architecture", HEADS)
def test_feed_forward_blocks_of_an_architecture(architecture: str, tmp_path: Path) -> None:
    model = pico(architecture, tmp_path, 3)
    blocks = layout_of(model).feed_forward
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        (first,) = block.first
        assert f".{number}." in first.name
        assert f".{number}." in block.second.name
        assert model.get_submodule(first.name).weight.shape == (32, 16)
        assert model.get_submodule(block.second.name).weight.shape == (16, 32)


def test_conv1d_is_transposed() -> None:
    model = nn.ModuleDict({"wide": Conv1D(6, 4), "plain": nn.Linear(6, 4)})
    assert layout_of(model).linear == {
        "wide.weight": LinearLayer("wide", transposed=True),
        "plain.weight": LinearLayer("plain"),
    }
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(model["wide"](inputs), inputs @ model["wide"].weight + model["wide"].bias)


def test_a_gated_block_has_two_first_layers() -> None:
    model = nn.ModuleDict(
        {"gate": nn.Linear(4, 9), "up": nn.Linear(4, 9), "down": nn.Linear(9, 4), "out": nn.Linear(4, 4)}
    )
    (block,) = layout_of(model).feed_forward
    assert [layer.name for layer in (*block.first, block.second)] == ["gate", "up", "down"]

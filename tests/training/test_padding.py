from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, PreTrainedModel

from regmean_lab.config.groups import TrainerConfig, TrainingConfig
from regmean_lab.modules import Optimization, module_type
from regmean_lab.modules.base import TaskModule, TrainableModule
from regmean_lab.modules.multi_task import MultiTaskModule
from regmean_lab.suites.base import Task
from regmean_lab.training.padding import ATTENTION_ALONE, WithoutPadding, reads_no_padding
from regmean_lab.training.train import training_trainer

CLASSES = Task("single_label", ("a", "b", "c"), "accuracy")
ANSWERS = Task("answers", ("answer",), "accuracy")
LENGTHS = (9, 3, 5, 2)
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "embedding_size": 8,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
    "pad_token_id": 1,
    "num_labels": 3,
}
OWN: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "dropout": 0.2},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
    },
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
}
OWN["mt5"] = OWN["t5"]


def model(kind: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **OWN.get(kind, {}), **changes)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForSequenceClassification
    made: PreTrainedModel = auto.from_config(config)
    return made.train()


def batch(labels: bool = True, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 50, mask.shape, generator=generator).masked_fill(mask == 0, 1)
    made = {"input_ids": ids, "attention_mask": mask}
    if labels:
        return {**made, "labels": torch.randint(3, (len(lengths),), generator=generator)}
    # As many tokens in an answer as in the longest question: a decoder's rows are not those of the mask.
    target = torch.randint(5, 50, mask.shape, generator=generator)
    return {**made, "target": target, "answer_prefix": target[:, :1], "labels": target[:, :2]}


class Rows(pl.Callback):
    """Counts the rows that linear layers compute, keeps gradients before they are clipped, and the loss."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.gradients: dict[str, Tensor] = {}
        self.loss = torch.zeros(())

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, layer in pl_module.named_modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(self._counts(name), prepend=True)

    def _counts(self, name: str) -> Callable[..., None]:
        def count(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.rows.setdefault(name, []).append(output.numel() // output.shape[-1])

        return count

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.gradients = {name: value.grad.clone() for name, value in named if value.grad is not None}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = outputs["loss"]


def step(
    module: TrainableModule, given: Any, monkeypatch: pytest.MonkeyPatch, *, padded: bool = False, **settings: Any
) -> Rows:
    """One step of training; with padding left in, as Lightning alone would do it."""
    rows = Rows()
    training = TrainingConfig(steps=1, selection="last", gradient_clip=0, **settings)
    with monkeypatch.context() as patch:
        if padded:
            patch.setattr(WithoutPadding, "on_fit_start", lambda *_: None)
        trainer = training_trainer(training, TrainerConfig(accelerator="cpu", progress_bar=False), [rows])
        torch.manual_seed(2)  # of dropout
        trainer.fit(module.train(), DataLoader([given], batch_size=None))
    return rows


def new_module(kind: str) -> TaskModule:
    task = ANSWERS if kind in ("t5", "mt5") else CLASSES
    return module_type(task)(model(kind), task, Optimization(1e-3))


def check_same(one: Rows, other: Rows) -> None:
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=0)
    assert one.gradients.keys() == other.gradients.keys()
    for name, gradient in other.gradients.items():
        torch.testing.assert_close(
            one.gradients[name], gradient, rtol=0, atol=5e-6 * float(gradient.abs().max()) + 1e-9, msg=name
        )


@pytest.mark.parametrize("kind", sorted(ATTENTION_ALONE))
def test_gradients_are_those_of_padded_batches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = batch(kind not in ("t5", "mt5"))
    padded = step(new_module(kind), given, monkeypatch, padded=True)
    without = step(new_module(kind), given, monkeypatch)
    check_same(without, padded)
    real, tokens = sum(LENGTHS), given["input_ids"].numel()
    # Layers of an encoder-decoder's decoder compute as many rows as before, and so do heads with a row an example.
    changed = [name for name in padded.rows if without.rows[name] != padded.rows[name]]
    assert changed and all(set(padded.rows[name]) >= {tokens} and real in without.rows[name] for name in changed)
    assert all("decoder" not in name for name in changed)


def test_every_layer_of_an_encoder_computes_real_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = step(new_module("bert"), batch(), monkeypatch).rows
    inner = {name: counted for name, counted in rows.items() if ".layer." in name}
    assert len(inner) == 2 * 6
    assert all(counted == [sum(LENGTHS)] for counted in inner.values())


def test_activations_are_computed_again_without_padding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    twice, once = new_module("bert"), new_module("bert")
    twice.model.activation_checkpointing_enable({"use_reentrant": False})
    again = step(twice, batch(), monkeypatch)
    check_same(again, step(once, batch(), monkeypatch, padded=True))
    assert again.rows["model.bert.encoder.layer.0.intermediate.dense"] == [sum(LENGTHS)] * 2


def test_tasks_that_are_trained_together_share_an_encoder_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    def together() -> MultiTaskModule:
        return MultiTaskModule({"one": new_module("bert"), "two": new_module("bert")}, Optimization(1e-3))

    without = step(together(), (1, batch()), monkeypatch)
    check_same(without, step(together(), (1, batch()), monkeypatch, padded=True))
    assert without.rows["parts.0.model.bert.encoder.layer.0.intermediate.dense"] == [sum(LENGTHS)]


@pytest.mark.parametrize("lengths", [(6, 6), (9, 8, 9, 8)])
def test_batches_with_little_padding_stay_as_they_are(
    lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batch(lengths=lengths)
    rows = step(new_module("bert"), given, monkeypatch).rows
    assert rows["model.bert.encoder.layer.0.intermediate.dense"] == [given["input_ids"].numel()]


def test_after_training_a_model_has_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = new_module("bert")
    step(module, batch(), monkeypatch)
    assert not any(layer._forward_pre_hooks for layer in module.modules())

    def fails(*_: Any) -> Tensor:
        raise ValueError("no loss")

    monkeypatch.setattr(module, "loss", fails)
    with pytest.raises(ValueError, match="no loss"):
        step(module, batch(), monkeypatch)
    assert not any(layer._forward_pre_hooks for layer in module.modules())


def test_models_in_which_convolutions_read_padding_are_left_alone() -> None:
    assert reads_no_padding(AutoConfig.for_model("deberta-v2", **SIZES))
    assert not reads_no_padding(AutoConfig.for_model("deberta-v2", **SIZES, conv_kernel_size=3))
    assert not reads_no_padding(AutoConfig.for_model("convbert", **SIZES))
    assert not reads_no_padding(AutoConfig.for_model("fnet", **SIZES))

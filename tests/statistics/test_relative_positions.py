"""Relative positions that all examples share: what single examples' gradients of them are."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from statistics_models import PADDING, VOCABULARY, classifier, naive_fisher, randomise, text_batch
from torch import Tensor, nn

from regmean_lab.statistics import FisherAccumulator
from regmean_lab.statistics.relative_positions import OwnRelativePositions

Batches = list[tuple[dict[str, Tensor], Tensor | None]]

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
    "pad_token_id": PADDING,
    "num_labels": 3,
}
T5_SIZES: dict[str, Any] = {"vocab_size": 12, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2}
T5_SIZES |= {"pad_token_id": 0, "decoder_start_token_id": 0}

# Of the second batch an example is as long as the batch is wide, of the third positions are farther than the table.
CLASSES: Batches = [
    (text_batch((5, 3, 6), seed=0), torch.tensor([0, 2, 1])),
    (text_batch((3, 3, 2), seed=1), torch.tensor([1, 1, 0])),
    (text_batch((14, 9), seed=2), torch.tensor([2, 0])),
]


def logits_of(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).logits


def answers() -> Batches:
    """Questions of five examples of five tokens: relative positions look as if they had the examples first."""
    batch = text_batch((5, 3, 4, 5, 2), seed=3)
    labels = torch.randint(3, 9, (5, 2), generator=torch.Generator().manual_seed(0))
    labels[1, 1] = -100
    return [({**batch, "labels": labels}, labels)]


def check(model: Any, batches: Batches, labels_from: Any = "expectation", mode: str = "per_example_products") -> None:
    """Compare with the gradients of one example and one label at a time.

    Some modules of these models compute in float32 whatever their dtype: T5's normalisation. A bias of attention that
    is the same for all keys changes nothing, so that there is nothing but rounding in some entries.
    """
    accumulator = FisherAccumulator(model, dtype=torch.float64, labels_from=labels_from, forward=logits_of)
    for batch, labels in batches:
        accumulator.add(batch, labels)
    assert accumulator.mode == mode, accumulator.reasons
    expected = naive_fisher(model, logits_of, batches, "categorical", labels_from)
    actual = accumulator.compute().diagonals
    assert actual.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    largest = max(float(value.max()) for value in expected.values())
    for name, value in actual.items():
        scale = max(float(expected[name].max()), 1e-12 * largest)
        assert float((value - expected[name]).abs().max()) < 1e-6 * scale, name


def deberta(**options: Any) -> Any:
    torch.manual_seed(0)
    relative: dict[str, Any] = {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}
    config = transformers.DebertaV2Config(**SIZES, **relative, **options)
    return randomise(transformers.DebertaV2ForSequenceClassification(config)).double().eval()


@pytest.mark.parametrize(
    "options",
    [
        {"share_att_key": True, "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm", "position_buckets": 3},
        {"share_att_key": True, "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm", "position_buckets": 8},
        {"share_att_key": False, "pos_att_type": "p2c|c2p", "norm_rel_ebd": "none"},
        {"share_att_key": False, "pos_att_type": ["c2p"], "position_buckets": 6},
        {"share_att_key": True, "pos_att_type": ["p2c"], "max_relative_positions": 5},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_deberta(options: dict[str, Any]) -> None:
    check(deberta(**options), CLASSES)


def test_deberta_that_projects_positions_and_does_not_use_them() -> None:
    check(deberta(share_att_key=True, pos_att_type=[]), CLASSES, mode="one_at_a_time")


def test_deberta_with_other_precision_of_the_same_values() -> None:
    """float32 sums of a float32 model are those of float64, and bfloat16 leaves the way in which they are found."""
    double, single = classifier("deberta"), classifier("deberta").float()
    expected, actual, rough = (
        FisherAccumulator(model, dtype=torch.float64 if model is double else torch.float32)
        for model in (double, single, single)
    )
    for batch, labels in CLASSES:
        expected.add(batch, labels)
        actual.add(batch, labels)
        with torch.autocast("cpu", torch.bfloat16):
            rough.add(batch, labels)
    assert rough.mode == "per_example_products"
    for name, value in expected.compute().diagonals.items():
        if "key_proj.bias" not in name:
            error = float((actual.compute().diagonals[name].double() - value).norm())
            assert error < 1e-3 * float(value.norm()), name


def encoder_decoder(version: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{version}Config")(**T5_SIZES, **options)
    return randomise(getattr(transformers, f"{version}ForConditionalGeneration")(config)).double().eval()


@pytest.mark.parametrize("version", ["T5", "MT5", "UMT5"])
def test_t5(version: str) -> None:
    """UMT5 has a table in every layer."""
    check(encoder_decoder(version), answers(), "true")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_t5_with_fewer_places_than_pairs_of_tokens(attention: str) -> None:
    model = encoder_decoder("T5", relative_attention_num_buckets=8, relative_attention_max_distance=10)
    model.set_attn_implementation(attention)
    check(model, answers(), "true")


def test_mpnet() -> None:
    torch.manual_seed(0)
    model = transformers.MPNetForSequenceClassification(transformers.MPNetConfig(**SIZES))
    check(randomise(model).double().eval(), CLASSES)


def test_one_example() -> None:
    single: Batches = [({name: value[:1] for name, value in CLASSES[0][0].items()}, torch.tensor([0]))]
    check(classifier("deberta"), single)


@pytest.mark.parametrize("frozen", ["rel_embeddings", "LayerNorm", "encoder.LayerNorm", "key_proj"])
def test_frozen_parts(frozen: str) -> None:
    model = classifier("deberta")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    check(model, CLASSES)


def test_a_frozen_table_of_t5() -> None:
    model = encoder_decoder("T5")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("relative_attention_bias" not in name)
    check(model, answers(), "true")


# Code of a model that computes something else


def test_a_bias_that_is_not_the_lookup_alone_makes_examples_pass_alone() -> None:
    model = encoder_decoder("T5")
    attention = type(model.encoder.block[0].layer[0].SelfAttention)

    class Doubled(attention):  # type: ignore[misc, valid-type]
        def compute_bias(self, *args: Any, **kwargs: Any) -> Tensor:
            return 2 * super().compute_bias(*args, **kwargs)

    model.encoder.block[0].layer[0].SelfAttention.__class__ = Doubled
    check(model, answers(), "true", "one_at_a_time")


def test_other_scores_of_positions_make_examples_pass_alone() -> None:
    model = classifier("deberta")
    attention = type(model.deberta.encoder.layer[1].attention.self)

    class Halved(attention):  # type: ignore[misc, valid-type]
        def disentangled_attention_bias(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().disentangled_attention_bias(*args, **kwargs) / 2

    model.deberta.encoder.layer[1].attention.self.__class__ = Halved
    check(model, CLASSES, mode="one_at_a_time")


def test_a_method_that_was_replaced_before_is_left_alone() -> None:
    model = encoder_decoder("T5")
    attention = model.encoder.block[0].layer[0].SelfAttention
    own = type(attention).compute_bias
    attention.compute_bias = MethodType(lambda self, *args, **kwargs: own(self, *args, **kwargs).tanh(), attention)
    check(model, answers(), "true", "one_at_a_time")
    assert "compute_bias" in vars(attention)


def test_positions_that_are_zero_tell_nothing() -> None:
    model = classifier("deberta")
    with torch.no_grad():
        model.deberta.encoder.LayerNorm.weight.zero_()
        model.deberta.encoder.LayerNorm.bias.zero_()
        for layer in model.deberta.encoder.layer:
            layer.attention.self.query_proj.bias.zero_()
            layer.attention.self.key_proj.bias.zero_()
    check(model, CLASSES, mode="one_at_a_time")


@pytest.mark.parametrize("model", [classifier("deberta"), encoder_decoder("UMT5")], ids=["deberta", "umt5"])
def test_the_methods_are_the_models_own_again(model: Any) -> None:
    before = {name: set(vars(module)) for name, module in model.named_modules()}

    def replaced() -> set[str]:
        return {name for name, module in model.named_modules() if set(vars(module)) != before[name]}

    with OwnRelativePositions(model):
        assert replaced()
    assert not replaced()
    with pytest.raises(RuntimeError, match="stopped"), OwnRelativePositions(model):
        raise RuntimeError("stopped")
    assert not replaced()

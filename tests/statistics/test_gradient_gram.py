"""Gram matrices of gradients against single examples, single tokens and automatic derivatives, in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from statistics_models import classifier, log_probability, outcomes, text_batch
from torch import Tensor, nn

from regmean_lab.statistics import (
    GradientGramAccumulator,
    GradientGramFile,
    GramFile,
    StatisticsError,
    check_finite,
    collect_gradient_gram,
    collect_gram,
    linear_layers,
    save_gradient_gram,
)

BATCHES = [text_batch((5, 3, 6), seed=0), text_batch((4, 2), seed=1)]


def naive(
    model: nn.Module, batches: list[dict[str, Tensor]], kind: str, labels: Callable[[Tensor, int], Any]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Σ_y p(y) g gᵀ of every real token, one example and one label at a time; sums and numbers of rows by layer.

    Args:
        labels: from an example's logits and number to its labels with their probabilities.
    """
    outputs: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    handles = [
        module.register_forward_hook(lambda module, args, output, name=name: outputs.__setitem__(name, output))
        for name, module in linear_layers(model).items()
    ]
    number = 0
    for batch in batches:
        for index, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            alone = {name: value[index : index + 1, :length] for name, value in batch.items()}
            logits = model(**alone).logits[0]
            for probability, label in labels(logits.detach(), number):
                value = log_probability(logits, label, kind)
                gradients = torch.autograd.grad(value, list(outputs.values()), retain_graph=True, allow_unused=True)
                for name, gradient in zip(outputs, gradients, strict=True):
                    if gradient is None:
                        gradient = torch.zeros_like(outputs[name])
                    for row in gradient.reshape(-1, gradient.shape[-1]):
                        sums[name] = sums.get(name, torch.zeros(())) + probability * torch.outer(row, row)
            for name, output in outputs.items():
                rows[name] = rows.get(name, 0) + output.reshape(-1, output.shape[-1]).shape[0]
            number += 1
    for handle in handles:
        handle.remove()
    return sums, rows


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, relative to the size of the matrix: gradients of some layers are tiny."""
    size = float(expected.norm())
    assert size > 1e-13
    torch.testing.assert_close(found / size, expected / size, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("kind", ["categorical", "bernoulli", "gaussian"])
def test_expectation_over_the_models_own_labels(architecture: str, kind: str) -> None:
    model = classifier(architecture)
    sums, rows = naive(model, BATCHES, kind, lambda logits, _: outcomes(logits, kind))
    found = collect_gradient_gram(model, BATCHES, kind=kind, dtype=torch.float64)  # type: ignore[arg-type]
    assert found.layers == list(linear_layers(model))
    assert (found.examples, found.batches, found.rows) == (5, 2, rows)
    for layer in found.layers:
        assert_alike(found.matrix(layer), sums[layer] / rows[layer])
    assert {parameter.grad for parameter in model.parameters()} == {None}


@pytest.mark.parametrize("labels_from", ["true", "pseudo"])
def test_labels_of_the_data_or_the_most_likely_ones(labels_from: str) -> None:
    model = classifier("bert")
    true = torch.tensor([2, 0, 1, 1, 0])

    def labels(logits: Tensor, number: int) -> list[tuple[float, Tensor]]:
        return [(1.0, true[number] if labels_from == "true" else logits.argmax())]

    sums, rows = naive(model, BATCHES, "categorical", labels)
    batches = [{**BATCHES[0], "labels": true[:3]}, {**BATCHES[1], "labels": true[3:]}]
    found = collect_gradient_gram(model, batches, labels_from=labels_from, dtype=torch.float64)  # type: ignore[arg-type]
    for layer in found.layers:
        assert_alike(found.matrix(layer), sums[layer] / rows[layer])


def test_a_transposed_layer_has_a_row_and_column_for_each_output() -> None:
    model = classifier("gpt2")
    sums, rows = naive(model, BATCHES, "categorical", lambda logits, _: outcomes(logits, "categorical"))
    found = collect_gradient_gram(model, BATCHES, dtype=torch.float64)
    assert found.matrix("transformer.h.0.attn.c_attn").shape == (24, 24)
    for layer in found.layers:
        # The head is applied to every token and read at the last one.
        assert_alike(found.matrix(layer), sums[layer] / rows[layer])


def test_with_the_gram_matrix_of_the_inputs_it_is_the_fisher_information_of_a_linear_model() -> None:
    """Of one layer, one row an example, and inputs that are independent of the gradients: F = G ⊗ H exactly."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4, bias=False, dtype=torch.float64)
    inputs = torch.randn(6, 3, dtype=torch.float64)

    def forward(layer: nn.Module, batch: Any) -> Tensor:
        output: Tensor = layer(batch["x"])
        return output

    gradients = collect_gradient_gram(model, [{"x": inputs}], kind="gaussian", forward=forward, dtype=torch.float64)
    grams = collect_gram(model, [{"x": inputs}], forward=forward, dtype=torch.float64)
    blocks = torch.zeros(12, 12, dtype=torch.float64)
    for x in inputs:
        for column in torch.eye(4, dtype=torch.float64):  # of the covariance of the score, the identity
            blocks += torch.outer(torch.outer(column, x).flatten(), torch.outer(column, x).flatten())
    torch.testing.assert_close(torch.kron(gradients.matrix(""), grams.matrix("")), blocks / 6)


def test_padding_is_counted_if_wanted() -> None:
    model = classifier("bert")
    real = collect_gradient_gram(model, BATCHES, dtype=torch.float64)
    padded = collect_gradient_gram(model, BATCHES, count_padding=True, dtype=torch.float64)
    unmasked = collect_gradient_gram(model, BATCHES, mask=lambda _: None, dtype=torch.float64)
    layer = "bert.encoder.layer.0.output.dense"
    assert (real.rows[layer], padded.rows[layer]) == (20, 26)
    # What is masked in attention has no influence on the outputs, hence no gradient.
    torch.testing.assert_close(padded.matrix(layer) * 26, real.matrix(layer) * 20)
    torch.testing.assert_close(padded.matrix(layer), unmasked.matrix(layer))


def test_layers_may_be_chosen_and_very_wide_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier("bert")
    chosen = collect_gradient_gram(model, BATCHES, layers=["classifier", "bert.pooler.dense"])
    assert chosen.layers == ["bert.pooler.dense", "classifier"]
    monkeypatch.setattr("regmean_lab.statistics.gradient_gram.WIDEST_OUTPUT", 8)
    narrow = collect_gradient_gram(model, BATCHES)
    assert set(linear_layers(model)) - set(narrow.layers) == {
        f"bert.encoder.layer.{i}.intermediate.dense" for i in (0, 1)
    }


def test_what_comes_from_no_example_is_left_out() -> None:
    """DeBERTa sends relative positions through the query and key projections."""
    model = classifier("deberta")
    layer = "deberta.encoder.layer.0.attention.self.query_proj"
    real = collect_gradient_gram(model, BATCHES, dtype=torch.float64)
    more = collect_gradient_gram(model, BATCHES, extra_rows=True, dtype=torch.float64)
    assert real.rows[layer] == 20
    assert more.rows[layer] > 20


def test_reduced_precision_is_summed_in_float32() -> None:
    model = classifier("bert").float()
    exact = collect_gradient_gram(model, BATCHES)
    with torch.autocast("cpu", torch.bfloat16):
        rough = collect_gradient_gram(model, BATCHES)
    assert {rough.matrix(layer).dtype for layer in rough.layers} == {torch.float32}
    for layer in ("bert.pooler.dense", "classifier"):  # far down, gradients of this model are lost in bfloat16
        size = float(exact.matrix(layer).norm())
        assert 0 < float((rough.matrix(layer) - exact.matrix(layer)).norm()) < 0.1 * size


def test_round_trip(tmp_path: Path) -> None:
    found = collect_gradient_gram(classifier("bert"), BATCHES)
    path = tmp_path / "gradient_gram.safetensors"
    save_gradient_gram(path, found, {"data_fingerprint": "sha256:0f", "settings": {"examples": 5}})
    with GradientGramFile(path) as file:
        assert file.layers == found.layers
        assert (file.rows, file.examples, file.batches) == (found.rows, 5, 2)
        assert (file.metadata["labels_from"], file.metadata["likelihood"]) == ("expectation", "categorical")
        for layer in found.layers:
            assert torch.equal(file.matrix(layer), found.matrix(layer).float())
    check_finite(path)
    with safe_open(str(path), framework="pt") as raw:
        assert raw.metadata()["kind"] == "gradient_gram"
        assert json.loads(raw.metadata()["rows"]) == found.rows
    with pytest.raises(StatisticsError, match="holds statistics of the kind 'gradient_gram', expected gram"):
        GramFile(path)


def test_wrong_use_is_told() -> None:
    model = classifier("bert")
    with pytest.raises(StatisticsError, match="labels_from=batch_mean: expected one of expectation, true, pseudo"):
        GradientGramAccumulator(model, labels_from="batch_mean")  # type: ignore[arg-type]
    with pytest.raises(StatisticsError, match="no batch was added"):
        GradientGramAccumulator(model).compute()
    with pytest.raises(StatisticsError, match="training mode"):
        GradientGramAccumulator(model.train()).add(BATCHES[0])
    model.eval()
    with pytest.raises(StatisticsError, match="no gradient Gram matrix of layer 'x'"):
        collect_gradient_gram(model, BATCHES).matrix("x")
    with pytest.raises(StatisticsError, match="the logits carry no gradient"):
        collect_gradient_gram(model, BATCHES, forward=lambda m, batch: m(**batch).logits.detach())
    with pytest.raises(StatisticsError, match="no output rows were seen by 'classifier'"):
        collect_gradient_gram(model, BATCHES, mask=lambda batch: {"classifier": torch.ones(7, 1), "*": None})
    accumulator = GradientGramAccumulator(model, labels_from="true")
    with pytest.raises(StatisticsError, match="no labels"):
        accumulator.add(BATCHES[0])
    with pytest.raises(StatisticsError, match="failed half-way"):
        accumulator.compute()


def test_a_weight_that_is_nan_is_told() -> None:
    model = classifier("bert")
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = torch.nan
    with pytest.raises(StatisticsError, match=r"NaN or infinity in the gradient Gram matrix of 'bert\.encoder"):
        collect_gradient_gram(model, BATCHES)

"""Loss-weighted Gram matrices against single rows, single scores and automatic derivatives, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from statistics_models import classifier, text_batch
from torch import Tensor, nn
from weighted_rows import centred, mixture, naive_weighted

from regmean_lab.statistics import (
    KINDS,
    StatisticsError,
    WeightedGramAccumulator,
    WeightedGramConfig,
    WeightedGramFile,
    collect_gram,
    collect_weighted_gram,
    linear_layers,
    save_weighted_gram,
)
from regmean_lab.statistics.weighted_gram import mixed

BATCHES = [text_batch((5, 3, 6), seed=0), text_batch((4, 2), seed=1)]


def singles(batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Every example alone, without padding."""
    return [
        {name: value[index : index + 1, :length] for name, value in batch.items()}
        for batch in batches
        for index, length in enumerate(batch["attention_mask"].sum(1).tolist())
    ]


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, relative to the size of the matrix."""
    torch.testing.assert_close(found / expected.norm(), expected / expected.norm(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2", "deberta"])
@pytest.mark.parametrize(
    ("kind", "outputs"), [("categorical", 2), ("categorical", 3), ("bernoulli", 3), ("gaussian", 1)]
)
def test_every_row_counts_by_its_gradients(architecture: str, kind: str, outputs: int) -> None:
    model = classifier(architecture, outputs)
    weighted, effective = naive_weighted(
        model,
        singles(BATCHES),
        lambda example: (centred if kind == "categorical" else lambda z: list(z.flatten()))(model(**example).logits),
    )
    grams = collect_gram(model, BATCHES, dtype=torch.float64)
    found = collect_weighted_gram(model, BATCHES, kind=kind, plain_share=0.25, dtype=torch.float64)  # type: ignore[arg-type]
    assert found.layers == list(linear_layers(model))
    assert (found.examples, found.batches, found.plain_share) == (5, 2, 0.25)
    for layer in found.layers:
        assert found.rows[layer] == grams.rows[grams.shared[layer]]
        if architecture != "deberta" or "attention.self" not in layer:  # there also positions go through layers
            assert_alike(found.matrix(layer), mixture(weighted[layer], grams.matrix(layer), 0.25))
            assert found.effective_rows[layer] == pytest.approx(effective[layer])
        assert float(torch.trace(found.matrix(layer))) == pytest.approx(float(torch.trace(grams.matrix(layer))))
    assert {parameter.grad for parameter in model.parameters()} == {None}


def test_of_two_labels_a_row_counts_by_the_gradient_of_the_logits_difference() -> None:
    """The formula for two labels, as it stands."""
    model = classifier("bert", 2)
    difference, _ = naive_weighted(
        model, singles(BATCHES), lambda example: [(z := model(**example).logits[0])[1] - z[0]]
    )
    found = collect_weighted_gram(model, BATCHES, plain_share=0.0, dtype=torch.float64)
    grams = collect_gram(model, BATCHES, dtype=torch.float64)
    for layer in found.layers:
        assert_alike(found.matrix(layer), mixture(difference[layer], grams.matrix(layer), 0.0))


def test_a_softmax_s_common_shift_does_not_count() -> None:
    class Shifted(nn.Module):
        """Logits that all grow with the second feature, and differ by the first."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
            nn.init.eye_(self.layer.weight)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layer(x)
            return torch.stack([hidden[..., 0] + hidden[..., 1], hidden[..., 1]], -1)

    rows = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    model = Shifted()
    accumulator = WeightedGramAccumulator(model.eval(), dtype=torch.float64, plain_share=0.0)
    found = collect_weighted_gram(model, [{"x": rows}], dtype=torch.float64, plain_share=0.0)
    # ∂(z₁ − z₀)/∂h = (1, 0) whatever the row: both rows weigh alike.
    assert_alike(found.matrix("layer"), collect_gram(model, [{"x": rows}], dtype=torch.float64).matrix("layer"))
    assert found.effective_rows == {"layer": pytest.approx(2.0)}
    assert accumulator.examples == 0


def test_many_scores_are_weighted_without_bias() -> None:
    """Six labels with four draws: the mean over seeds comes near the exact matrix; five draws are exact."""
    model = classifier("bert", 6)
    exact = collect_weighted_gram(model, BATCHES, draws=5, plain_share=0.0, dtype=torch.float64)
    weighted, _ = naive_weighted(model, singles(BATCHES), lambda example: centred(model(**example).logits))
    many = collect_weighted_gram(model, BATCHES[:1] + BATCHES[1:], draws=4, plain_share=0.0, dtype=torch.float64)
    again = collect_weighted_gram(model, BATCHES, draws=4, plain_share=0.0, dtype=torch.float64)
    layer = "bert.encoder.layer.0.output.dense"
    gram = collect_gram(model, BATCHES, dtype=torch.float64).matrix(layer)
    assert_alike(exact.matrix(layer), mixture(weighted[layer], gram, 0.0))
    assert torch.equal(many.matrix(layer), again.matrix(layer))
    mean = sum(
        collect_weighted_gram(model, BATCHES, draws=4, seed=seed, plain_share=0.0, dtype=torch.float64).matrix(layer)
        for seed in range(40)
    )
    assert isinstance(mean, Tensor)
    single = float((again.matrix(layer) - exact.matrix(layer)).norm())
    assert 0 < float((mean / 40 - exact.matrix(layer)).norm()) < single / 2


def test_it_does_not_depend_on_batches_nor_their_order() -> None:
    model = classifier("bert", 9)  # more labels than draws
    whole = collect_weighted_gram(model, [text_batch((5, 3, 6), seed=0)], dtype=torch.float64)
    alone = collect_weighted_gram(model, singles([text_batch((5, 3, 6), seed=0)])[::-1], dtype=torch.float64)
    for layer in whole.layers:
        assert_alike(alone.matrix(layer), whole.matrix(layer))


def test_layers_that_scores_do_not_depend_on_have_the_plain_matrix(tmp_path: Path) -> None:
    class Unused(nn.Module):
        """Two layers are called and their outputs are thrown away."""

        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.also = nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            self.also(x)
            used: Tensor = self.used(x)
            return used

    torch.manual_seed(0)
    model, batch = Unused(), {"x": torch.randn(7, 3)}
    found = collect_weighted_gram(model, [batch])
    assert torch.equal(found.matrix("unused"), collect_gram(model, [batch]).matrix("unused"))
    assert found.effective_rows["unused"] == 7.0
    save_weighted_gram(tmp_path / "x.safetensors", found, {})  # both from the one plain matrix
    with WeightedGramFile(tmp_path / "x.safetensors") as file:
        assert torch.equal(file.matrix("also"), found.matrix("unused"))


def test_a_file_gives_back_what_was_collected_in_any_form(tmp_path: Path) -> None:
    statistics = collect_weighted_gram(classifier("bert").float(), BATCHES)
    kind, layer = KINDS["weighted_gram"], "bert.encoder.layer.1.output.dense"
    save_weighted_gram(tmp_path / "full.safetensors", statistics, {"data_fingerprint": "x"})
    with WeightedGramFile(tmp_path / "full.safetensors") as file:
        assert torch.equal(file.matrix(layer), statistics.matrix(layer))
        loaded = kind.load(file)
    kind.save(tmp_path / "packed.safetensors", loaded, {}, form="packed")
    with WeightedGramFile(tmp_path / "packed.safetensors") as file:
        torch.testing.assert_close(file.matrix(layer), statistics.matrix(layer), rtol=0, atol=0)
        assert file.layers == statistics.layers and file.rows == statistics.rows
    with safe_open(str(tmp_path / "packed.safetensors"), framework="pt") as plain:
        header = plain.metadata()
    assert header["kind"] == "weighted_gram" and json.loads(header["plain_share"]) == 0.01
    # What guards publication is how many rows of equal weight there would be.
    assert kind.rows_of(loaded) == {name: int(rows) for name, rows in loaded.effective_rows.items()}
    assert kind.rows_of(loaded)[layer] < loaded.rows[layer]


def test_a_matrix_of_zeros_mixes_into_the_plain_one() -> None:
    gram = torch.eye(2)
    assert mixed(torch.zeros(2, 2), gram, 0.5) is gram


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"draws": 0}, "draws=0: expected at least 1"), ({"plain_share": 1.5}, "plain_share=1.5: expected a share")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(StatisticsError, match=expected):
        collect_weighted_gram(classifier("bert"), BATCHES, **settings)


def test_wrong_values_of_the_configuration_are_told() -> None:
    found = WeightedGramConfig(examples=0, plain_share=-0.1, draws=0).problems()
    assert [problem.partition(":")[0] for problem in found] == ["examples", "plain_share", "draws"]


def test_training_mode_and_scores_without_gradients_are_refused() -> None:
    model = classifier("bert")
    accumulator = WeightedGramAccumulator(model.train())
    with pytest.raises(StatisticsError, match="training mode"):
        accumulator.add(BATCHES[0], lambda batch: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(StatisticsError, match="the scores carry no gradient"):
        collect_weighted_gram(model, BATCHES, forward=lambda model, batch: model(**batch).logits.detach())


def test_nan_is_told_by_its_layer() -> None:
    model = classifier("bert")
    with torch.no_grad():
        model.classifier.weight[0, 0] = torch.nan
    with pytest.raises(StatisticsError, match="NaN or infinity in the weighted Gram matrix"):
        collect_weighted_gram(model, BATCHES)


def test_frozen_layers_are_refused() -> None:
    """Their rows would all count alike, as if no score depended on them."""
    model = classifier("bert")
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(StatisticsError, match=r"no gradient at the output of .*query.*do not require gradients"):
        collect_weighted_gram(model, BATCHES)
    found = collect_weighted_gram(model, BATCHES, layers=["classifier"])
    assert found.layers == ["classifier"]

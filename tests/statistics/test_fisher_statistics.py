from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from statistics_models import classifier, naive_fisher, randomise, squared_gradients, text_batch
from torch import Tensor, nn
from torch.nn import functional

from regmean_lab.statistics import FisherAccumulator, FisherStatistics, StatisticsError, collect_fisher

NONE = -100
PRODUCTS = ["bert", "roberta", "distilbert", "albert", "gpt2", "llama"]
Forward = Callable[[Any, Any], Tensor]


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def batches_with(*labels: Tensor) -> list[tuple[dict[str, Tensor], Tensor | None]]:
    lengths = ((5, 3, 6), (2, 4), (3, 3, 3, 3))
    return [(text_batch(lengths[number], seed=number), own) for number, own in enumerate(labels)]


CLASSES = batches_with(torch.tensor([0, 2, 1]), torch.tensor([1, 1]))
ANNOTATIONS = batches_with(torch.tensor([[1, 0, NONE], [0, NONE, NONE], [1, 1, 0]]), torch.tensor([[0, 1, 1]] * 2))
VALUES = batches_with(torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([1.0, 0.0]).double())


def accumulate(
    model: nn.Module, batches: list[tuple[dict[str, Tensor], Tensor | None]], **options: Any
) -> tuple[FisherStatistics, FisherAccumulator]:
    accumulator = FisherAccumulator(model, dtype=torch.float64, **options)
    for batch, labels in batches:
        accumulator.add(batch, labels)
    return accumulator.compute(), accumulator


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """Equal to rounding, relative to the largest entry of the tensor (of the model, where a tensor is exactly zero).

    Attention key biases have no influence on the output: their gradients are nothing but rounding errors.
    """
    assert actual.keys() == expected.keys()
    largest = max(float(value.max()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        scale = max(float(value.max()), 1e-12 * largest)
        error = float((actual[name] - value).abs().max()) / scale
        assert error < tolerance, f"{name}: {error}"


# Every variant, on a model with products and on one that falls back


@pytest.mark.parametrize("architecture", ["bert", "deberta_with_convolution"])
@pytest.mark.parametrize(
    ("batches", "outputs", "kind", "labels_from"),
    [
        (CLASSES, 3, "categorical", "expectation"),
        (CLASSES, 3, "categorical", "true"),
        (CLASSES, 3, "categorical", "pseudo"),
        (ANNOTATIONS, 3, "bernoulli", "expectation"),
        (ANNOTATIONS, 3, "bernoulli", "true"),
        (ANNOTATIONS, 3, "bernoulli", "pseudo"),
        (VALUES, 1, "gaussian", "expectation"),
        (VALUES, 1, "gaussian", "true"),
    ],
)
def test_every_variant_equals_its_definition(
    architecture: str, batches: Any, outputs: int, kind: Any, labels_from: Any
) -> None:
    model = classifier(architecture, outputs)
    statistics, _ = accumulate(model, batches, kind=kind, labels_from=labels_from)
    expected = naive_fisher(model, logits_of, batches, kind, labels_from)
    assert_equal(statistics.diagonals, expected)
    assert (statistics.examples, statistics.batches) == (5, 2)
    assert (statistics.labels_from, statistics.likelihood) == (labels_from, kind)


@pytest.mark.parametrize("architecture", PRODUCTS)
def test_products_are_exact(architecture: str) -> None:
    model = classifier(architecture)
    statistics, accumulator = accumulate(model, CLASSES)
    assert (accumulator.mode, accumulator.reasons) == ("per_example_products", ())
    expected = naive_fisher(model, logits_of, CLASSES, "categorical", "expectation")
    # Llama computes its normalisations and its positions in float32, whatever the dtype of the model.
    assert_equal(statistics.diagonals, expected, tolerance=1e-5 if architecture == "llama" else 1e-9)


def test_a_convolution_makes_examples_pass_alone() -> None:
    _, accumulator = accumulate(classifier("deberta_with_convolution"), CLASSES)
    assert accumulator.mode == "one_at_a_time"
    assert accumulator.reasons == tuple(
        f"parameter 'deberta.encoder.conv.conv.{name}' is used outside of modules whose per-example gradients are known"
        for name in ("weight", "bias")
    )


def test_two_classes() -> None:
    model = classifier("distilbert", 2)
    batches = batches_with(torch.tensor([0, 1, 1]))
    statistics, _ = accumulate(model, batches)
    assert_equal(statistics.diagonals, naive_fisher(model, logits_of, batches, "categorical", "expectation"))


@pytest.mark.parametrize("chunk_bytes", [2 * 8 * 12 * 8, 2**26])
def test_the_size_of_chunks_changes_nothing(chunk_bytes: int) -> None:
    """One example at a time, as by default on the CPU, two for the largest matrix, and all."""
    model = classifier("bert")
    statistics, _ = accumulate(model, CLASSES, chunk_bytes=chunk_bytes)
    assert_equal(statistics.diagonals, accumulate(model, CLASSES)[0].diagonals)


def test_expectation_needs_no_labels() -> None:
    model = classifier("roberta")
    unlabelled = [(batch, None) for batch, _ in CLASSES]
    assert_equal(accumulate(model, unlabelled)[0].diagonals, accumulate(model, CLASSES)[0].diagonals)


def test_order_and_grouping_of_examples_do_not_matter() -> None:
    model = classifier("bert")
    batches = batches_with(*(torch.zeros(size, dtype=torch.long) for size in (3, 2, 4)))
    whole, _ = accumulate(model, batches, labels_from="true")
    reverse, _ = accumulate(model, batches[::-1], labels_from="true")
    singles = [
        ({name: value[index : index + 1] for name, value in batch.items()}, labels[index : index + 1])
        for batch, labels in batches
        if labels is not None
        for index in range(len(labels))
    ]
    alone, accumulator = accumulate(model, singles, labels_from="true")
    assert accumulator.mode == "per_example_products"
    assert_equal(reverse.diagonals, whole.diagonals)
    assert_equal(alone.diagonals, whole.diagonals)


# Token labels and tied parameters


def masked_language_model() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        pad_token_id=0,
    )
    return randomise(transformers.BertForMaskedLM(config)).double().eval()


def first_token(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return logits_of(model, batch)[:, 0]


def test_tied_embeddings_are_added_before_squaring() -> None:
    model = masked_language_model()
    tied = "cls.predictions.decoder.weight"
    kept = "bert.embeddings.word_embeddings.weight"
    assert model.get_parameter(tied) is model.get_parameter(kept)
    batches = batches_with(torch.tensor([3, 1, 2]), torch.tensor([9, 10]))
    statistics, accumulator = accumulate(model, batches, labels_from="true", forward=first_token)
    assert accumulator.mode == "per_example_products"
    assert_equal(statistics.diagonals, naive_fisher(model, first_token, batches, "categorical", "true"))
    assert statistics.shared[tied] == kept
    assert statistics.diagonal(tied) is statistics.diagonal(kept)
    assert tied not in statistics.diagonals


@pytest.mark.parametrize("labels_from", ["true", "pseudo"])
def test_token_labels_are_summed_within_an_example(labels_from: Any) -> None:
    model = masked_language_model()
    batches = batches_with(
        torch.tensor([[3, NONE, 4, 5, 1, NONE], [2, 2, 2, NONE, NONE, NONE], [NONE] * 6]),
        torch.tensor([[1, NONE, 0, NONE], [NONE, 7, 8, 9]]),
    )
    statistics, _ = accumulate(model, batches, labels_from=labels_from)
    total: dict[str, Tensor] = {}
    for batch, labels in batches:
        assert labels is not None
        for index in range(len(labels)):
            logits = logits_of(model, {name: value[index : index + 1] for name, value in batch.items()})[0]
            chosen = logits.argmax(-1) if labels_from == "pseudo" else labels[index]
            chosen = torch.where(labels[index] == NONE, NONE, chosen)
            loss = functional.cross_entropy(logits, chosen, ignore_index=NONE, reduction="sum")
            for name, square in squared_gradients(model, loss).items():
                total[name] = total.get(name, torch.zeros(())) + square
    assert_equal(statistics.diagonals, {name: value / 5 for name, value in total.items()})


# Models with a structure of their own


class Vectors(nn.Module):
    """A model of vectors; the body is given."""

    def __init__(self, body: nn.Module, outputs: int = 2) -> None:
        super().__init__()
        self.body = body
        self.head = nn.LazyLinear(outputs)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.body(input_ids))


def vector_batches(*shape: int) -> list[tuple[dict[str, Tensor], Tensor | None]]:
    generator = torch.Generator().manual_seed(0)
    return [
        ({"input_ids": torch.randn(4, *shape, generator=generator).double()}, torch.tensor([0, 1, 1, 0])),
        ({"input_ids": torch.randn(3, *shape, generator=generator).double()}, torch.tensor([1, 0, 0])),
    ]


def vectors(body: nn.Module, *shape: int) -> Vectors:
    torch.manual_seed(0)
    model = Vectors(body)
    model(torch.zeros(1, *shape))
    randomise(model)
    return model.double().eval()


def check(model: nn.Module, batches: Any, mode: str, **options: Any) -> FisherAccumulator:
    """Compare with the definition; the forward passes of both are the model's own."""

    def forward(model: nn.Module, batch: Any) -> Tensor:
        return model(batch["input_ids"])

    statistics, accumulator = accumulate(model, batches, forward=forward, **options)
    assert accumulator.mode == mode, accumulator.reasons
    assert_equal(statistics.diagonals, naive_fisher(model, forward, batches, "categorical", "expectation"))
    return accumulator


def test_a_layer_called_twice() -> None:
    layer = nn.Linear(4, 4)
    model = vectors(nn.Sequential(layer, nn.Tanh(), layer, nn.LayerNorm(4)), 4)
    check(model, vector_batches(4), "per_example_products")


def test_layers_with_tied_weights_and_biases_of_their_own() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    model = vectors(nn.Sequential(one, nn.Tanh(), two), 4)
    check(model, vector_batches(4), "per_example_products")


def test_tokens_that_repeat_and_padding() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(6, 3, padding_idx=0)
            self.more = nn.Embedding(6, 3)
            self.more.weight = self.tokens.weight
            self.head = nn.Linear(3, 3, bias=False)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.tokens(ids).sum(1).tanh() + self.more(ids[:, 0]))

    torch.manual_seed(0)
    model = randomise(Embedded()).double().eval()
    batches = [({"input_ids": torch.tensor([[1, 1, 0, 2], [0, 0, 0, 0], [3, 1, 3, 3]])}, torch.tensor([0, 1, 2]))]
    check(model, batches, "per_example_products")


def test_outputs_changed_in_place() -> None:
    model = vectors(nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 5), nn.ReLU(inplace=True)), 3)
    check(model, vector_batches(3), "per_example_products")


def test_normalisations_of_torch_over_several_dimensions() -> None:
    body = nn.Sequential(nn.LayerNorm((2, 3)), nn.RMSNorm((2, 3), eps=1e-3), nn.Flatten(1))
    check(vectors(body, 4, 2, 3), vector_batches(4, 2, 3), "per_example_products")


def test_frozen_parameters_are_left_out() -> None:
    model = vectors(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)), 3)
    model.body[0].weight.requires_grad_(False)
    model.body[2].requires_grad_(False)
    check(model, vector_batches(3), "per_example_products")
    statistics, _ = accumulate(model, vector_batches(3))
    assert list(statistics.diagonals) == ["body.0.bias", "head.weight", "head.bias"]


def test_unused_parameters_have_a_diagonal_of_zero() -> None:
    model = vectors(nn.Linear(3, 4), 3)
    model.unused = nn.Linear(3, 3).double().eval()
    statistics, _ = accumulate(model, vector_batches(3))
    assert not statistics.diagonal("unused.weight").any()
    assert bool((statistics.diagonal("body.weight") > 0).any())


def test_an_unknown_module_makes_examples_pass_alone() -> None:
    model = vectors(nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(1)), 2, 4)
    accumulator = check(model, vector_batches(2, 4), "one_at_a_time")
    assert accumulator.reasons == tuple(
        f"parameter 'body.0.{name}' is used outside of modules whose per-example gradients are known"
        for name in ("weight", "bias")
    )


def test_a_weight_used_outside_its_module_is_noticed() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return functional.linear(self.layer(inputs).tanh(), self.layer.weight)

    accumulator = check(vectors(Tied(), 4), vector_batches(4), "one_at_a_time")
    assert accumulator.reasons[0].startswith("parameter 'body.layer.weight'")


def test_a_subclass_that_computes_something_else_is_noticed() -> None:
    class Scaled(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return 3 * super().forward(inputs)

    check(vectors(Scaled(3, 4), 3), vector_batches(3), "one_at_a_time")


def test_a_forward_replaced_on_the_module_is_noticed() -> None:
    layer = nn.Linear(3, 4)
    model = vectors(layer, 3)
    plain = layer.forward
    layer.forward = lambda inputs: 2 * plain(inputs)  # type: ignore[method-assign]
    check(model, vector_batches(3), "one_at_a_time")


def reparametrised(layer: nn.Module) -> nn.Module:
    """The weight of ``layer`` is computed from another parameter before each call."""
    layer.raw = nn.Parameter(layer.weight.detach().clone())
    del layer.weight

    def compute(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        module.weight = module.raw.tanh()

    layer.register_forward_pre_hook(compute)
    return layer


@pytest.mark.parametrize("change", [reparametrised, nn.utils.parametrizations.spectral_norm])
def test_a_weight_that_is_computed_from_another_is_noticed(change: Callable[[nn.Module], nn.Module]) -> None:
    check(vectors(change(nn.Linear(3, 4)), 3), vector_batches(3), "one_at_a_time")


def test_a_model_that_treats_a_single_example_differently_is_noticed() -> None:
    class Lonely(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.many = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.one(inputs) if len(inputs) == 1 else self.many(self.many(inputs))

    accumulator = check(vectors(Lonely(), 3), vector_batches(3), "one_at_a_time")
    assert accumulator.reasons == ("the model calls other modules for one example than for several",)


def test_a_hook_that_changes_a_layers_output() -> None:
    model = vectors(nn.Sequential(nn.Linear(3, 4)), 3)
    model.body[0].register_forward_hook(lambda module, args, output: output * torch.arange(4.0).double())
    check(model, vector_batches(3), "per_example_products")


def test_an_embedding_scaled_by_frequency_is_noticed() -> None:
    model = Vectors(nn.Sequential(nn.Embedding(6, 3, scale_grad_by_freq=True), nn.Flatten(1)))
    ids = torch.tensor([[1, 1], [1, 2], [3, 3]])
    model(ids)
    torch.manual_seed(0)
    randomise(model).double().eval()
    check(model, [({"input_ids": ids}, torch.tensor([0, 1, 1]))], "one_at_a_time")


class LooksLikeRMSNorm(nn.Module):
    """Has the looks of a normalisation by root mean square, and the function of T5's only where ``scale`` is 1."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.variance_epsilon = 1e-6
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * functional.rms_norm(inputs, (4,), self.weight, self.variance_epsilon)


@pytest.mark.parametrize(("scale", "mode"), [(1.0, "per_example_products"), (2.0, "one_at_a_time")])
def test_looks_alone_do_not_make_a_normalisation(scale: float, mode: str) -> None:
    LooksLikeRMSNorm.__name__ = "OddRMSNorm"
    check(vectors(LooksLikeRMSNorm(scale), 4), vector_batches(4), mode)


class TimeFirst(nn.Module):
    """A layer whose input has the time in the first dimension and the examples in the second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs.transpose(0, 1)).tanh().sum(0)


def test_examples_in_the_second_dimension_are_noticed_even_if_it_is_as_long_as_the_first() -> None:
    # Batches of 4 and 3; the first is square.
    accumulator = check(vectors(TimeFirst(), 4, 3), vector_batches(4, 3), "one_at_a_time")
    assert accumulator.reasons == ("the input of 'body.layer' does not have the examples in its first dimension",)


def test_a_model_that_changes_its_mind_after_the_first_batch() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) == 3:
                return functional.linear(inputs, self.layer.weight, self.layer.bias)
            return self.layer(inputs)

    check(vectors(Fickle(), 3), vector_batches(3), "one_at_a_time")


# The published variant


@pytest.mark.parametrize("labels", ["true", "pseudo"])
@pytest.mark.parametrize("architecture", ["bert", "deberta"])
def test_batch_mean_is_the_square_of_the_gradient_of_the_mean_loss(architecture: str, labels: Any) -> None:
    model = classifier(architecture)
    batches = batches_with(torch.tensor([0, 2, NONE]), torch.tensor([1, 1]))
    statistics, _ = accumulate(model, batches, labels_from="batch_mean", batch_mean_labels=labels)
    total: dict[str, Tensor] = {}
    for batch, own in batches:
        assert own is not None
        logits = logits_of(model, batch)
        targets = own if labels == "true" else torch.where(own == NONE, NONE, logits.argmax(-1))
        for name, square in squared_gradients(model, functional.cross_entropy(logits, targets)).items():
            total[name] = total.get(name, torch.zeros(())) + square
    assert_equal(statistics.diagonals, {name: value / 2 for name, value in total.items()})
    assert statistics.labels_from == "batch_mean"


def test_batch_mean_of_annotated_labels() -> None:
    model = classifier("bert")
    statistics, _ = accumulate(model, ANNOTATIONS[:1], kind="bernoulli", labels_from="batch_mean")
    batch, labels = ANNOTATIONS[0]
    assert labels is not None
    annotated = labels != NONE
    loss = functional.binary_cross_entropy_with_logits(logits_of(model, batch)[annotated], labels[annotated].double())
    assert_equal(statistics.diagonals, squared_gradients(model, loss))


def test_batch_mean_of_a_squared_error() -> None:
    """Without the half of a Gaussian with variance 1: four times its squares of gradients."""
    model = classifier("bert", 1)
    statistics, _ = accumulate(model, VALUES[:1], kind="squared_error", labels_from="batch_mean")
    batch, labels = VALUES[0]
    assert labels is not None
    expected = squared_gradients(model, functional.mse_loss(logits_of(model, batch).squeeze(1), labels))
    assert_equal(statistics.diagonals, expected)


def test_batch_mean_of_a_regression_and_sparse_embedding_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 3, sparse=True), nn.Flatten(1), nn.Linear(6, 1)).double().eval()
    ids, labels = torch.tensor([[1, 1], [2, 3]]), torch.tensor([0.5, 2.0]).double()
    statistics, _ = accumulate(
        model,
        [({"input_ids": ids}, labels)],
        kind="gaussian",
        labels_from="batch_mean",
        forward=lambda model, batch: model(batch["input_ids"]),
    )
    loss = functional.mse_loss(model(ids).squeeze(1), labels) / 2
    expected = squared_gradients(model, loss)
    assert_equal(statistics.diagonals, {name: value.to_dense() for name, value in expected.items()})


# Where it is called from


def test_called_under_no_grad_and_inference_mode() -> None:
    model = classifier("bert")
    expected, _ = accumulate(model, CLASSES)
    with torch.no_grad():
        assert_equal(accumulate(model, CLASSES)[0].diagonals, expected.diagonals)
    with torch.inference_mode():
        batches = [
            ({name: value.clone() for name, value in batch.items()}, None if own is None else own.clone())
            for batch, own in CLASSES
        ]
        assert batches[0][0]["input_ids"].is_inference()
        statistics, _ = accumulate(model, batches)
    assert not statistics.diagonal("classifier.weight").is_inference()
    assert_equal(statistics.diagonals, expected.diagonals)


@pytest.mark.parametrize("labels_from", ["expectation", "batch_mean"])
def test_under_autocast_squares_are_float32_and_nearly_the_same(labels_from: Any) -> None:
    model = classifier("bert").float()
    labelled = [{**batch, "labels": labels} for batch, labels in CLASSES]
    expected = collect_fisher(model, labelled, labels_from=labels_from)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        model(**CLASSES[0][0])  # leaves casts of the weights that have no gradients in autocast's cache
        accumulator = FisherAccumulator(model, labels_from=labels_from)
        for batch, labels in CLASSES:
            accumulator.add(batch, labels)
        assert accumulator.mode == "per_example_products"
        statistics = accumulator.compute()
    for name in ("bert.encoder.layer.0.output.dense.weight", "bert.embeddings.word_embeddings.weight"):
        actual, reference = statistics.diagonal(name), expected.diagonal(name)
        assert actual.dtype == torch.float32
        assert float((actual - reference).norm() / reference.norm()) < 0.1


def test_gradients_and_training_flags_are_left_alone() -> None:
    model = classifier("bert")
    model.train()
    model.bert.eval()
    flags = [module.training for module in model.modules()]
    kept = torch.ones_like(model.classifier.weight)
    model.classifier.weight.grad = kept
    collect_fisher(model, [{**batch, "labels": labels} for batch, labels in CLASSES])
    assert [module.training for module in model.modules()] == flags
    assert model.classifier.weight.grad is kept
    assert all(parameter.grad is None for parameter in model.bert.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_collect_equals_the_accumulator_and_is_float32_by_default() -> None:
    model = classifier("gpt2")
    collected = collect_fisher(model, [{**batch, "labels": labels} for batch, labels in CLASSES], labels_from="true")
    expected, _ = accumulate(model, CLASSES, labels_from="true")
    for name, diagonal in expected.diagonals.items():
        assert collected.diagonals[name].dtype == torch.float32
        torch.testing.assert_close(
            collected.diagonals[name].double(), diagonal, rtol=1e-4, atol=1e-6 * float(diagonal.max()) + 1e-12
        )


# Errors


def test_training_mode_is_refused() -> None:
    model = classifier("bert")
    model.bert.encoder.train()
    with pytest.raises(StatisticsError, match=r"training mode \('bert\.encoder'.*model\.eval"):
        FisherAccumulator(model).add(*CLASSES[0])


def test_a_model_made_under_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(2, 2)).eval()
    with pytest.raises(StatisticsError, match=r"'0.weight', '0.bias'; make or load the model outside"):
        FisherAccumulator(model).add({"input_ids": torch.zeros(1, 2)})


def test_diagonals_that_are_not_finite_are_named() -> None:
    model = vectors(nn.Linear(3, 4), 3)
    with torch.no_grad():
        model.head.bias[0] = math.nan
    accumulator = FisherAccumulator(model)
    accumulator.add(vector_batches(3)[0][0])
    with pytest.raises(StatisticsError, match=r"'body.weight', 'body.bias', 'head.weight', 'head.bias'"):
        accumulator.compute()


def test_a_failed_batch_spoils_the_sums() -> None:
    model = classifier("deberta_with_convolution")
    accumulator = FisherAccumulator(model, labels_from="true")
    accumulator.add(*CLASSES[0])
    with pytest.raises(StatisticsError, match="label 7 outside 0 to 2"):
        accumulator.add(CLASSES[0][0], torch.tensor([0, 1, 7]))
    accumulator.add(*CLASSES[1])
    with pytest.raises(StatisticsError, match="half-way"):
        accumulator.compute()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"labels_from": "soft"}, "labels_from=soft: expected one of expectation, true, pseudo, batch_mean"),
        ({"kind": "poisson"}, "kind=poisson"),
        ({"batch_mean_labels": "expectation"}, "batch_mean_labels=expectation"),
        ({"dtype": torch.float16}, "dtype=torch.float16"),
    ],
)
def test_unknown_settings_are_told(option: dict[str, Any], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        FisherAccumulator(nn.Linear(1, 1), **option)


def test_models_and_batches_that_do_not_fit_are_told() -> None:
    model = vectors(nn.Linear(3, 4), 3)
    batch, _ = vector_batches(3)[0]
    with pytest.raises(StatisticsError, match="no parameter that requires gradients"):
        FisherAccumulator(nn.ReLU())
    with pytest.raises(StatisticsError, match="no batch"):
        FisherAccumulator(model).compute()
    with pytest.raises(StatisticsError, match="1 labels for a batch of 4"):
        FisherAccumulator(model).add(batch, torch.tensor([1]))
    with pytest.raises(StatisticsError, match="holds a tensor"):
        FisherAccumulator(model).add({"text": "none"})
    with pytest.raises(StatisticsError, match="no gradient"):
        FisherAccumulator(model, forward=lambda model, batch: model(**batch).detach()).add(batch)
    with pytest.raises(StatisticsError, match=r"logits of shape \(2,\) for 4 examples"):
        FisherAccumulator(model, forward=lambda model, batch: model(**batch).sum(0)).add(batch)
    with pytest.raises(StatisticsError, match="neither a tensor nor has `logits`"):
        FisherAccumulator(classifier("bert").bert).add(*CLASSES[0])
    with pytest.raises(StatisticsError, match="no labels"):
        FisherAccumulator(model, labels_from="true").add(batch)


# Statistics


@pytest.mark.parametrize("labels_from", ["true", "batch_mean"])
def test_combine_equals_adding_everything(labels_from: Any) -> None:
    model = classifier("bert")
    whole, _ = accumulate(model, CLASSES, labels_from=labels_from)
    first, _ = accumulate(model, CLASSES[:1], labels_from=labels_from)
    second, _ = accumulate(model, CLASSES[1:], labels_from=labels_from)
    both = first.combine(second)
    assert_equal(both.diagonals, whole.diagonals)
    assert (both.examples, both.batches) == (5, 2)


def test_combine_keeps_apart_the_labels_of_batch_means() -> None:
    model = classifier("bert")
    true, _ = accumulate(model, CLASSES, labels_from="batch_mean")
    pseudo, _ = accumulate(model, CLASSES, labels_from="batch_mean", batch_mean_labels="pseudo")
    with pytest.raises(StatisticsError, match=r"\(categorical, true labels\) and 'batch_mean' \(categorical, pseudo"):
        true.combine(pseudo)
    assert pseudo.combine(pseudo).batch_mean_labels == "pseudo"


def test_combine_refuses_what_differs() -> None:
    model = vectors(nn.Linear(3, 4), 3)
    batches = vector_batches(3)
    one, _ = accumulate(model, batches)
    two, _ = accumulate(model, batches, labels_from="true")
    with pytest.raises(StatisticsError, match=r"'expectation' \(categorical\) and 'true'"):
        one.combine(two)
    model.body.requires_grad_(False)
    three, _ = accumulate(model, batches)
    with pytest.raises(StatisticsError, match=r"different parameters: 'body.bias', 'body.weight'"):
        one.combine(three)
    with pytest.raises(StatisticsError, match=r"no Fisher diagonal of parameter 'body\.weight'"):
        three.diagonal("body.weight")

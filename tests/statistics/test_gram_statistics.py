from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_models import captured_inputs, classifier, naive_gram, randomise, text_batch
from torch import Tensor, nn

from regmean_lab.statistics import (
    GramAccumulator,
    GramStatistics,
    RowSelection,
    StatisticsError,
    add_gram_,
    collect_gram,
    linear_layers,
    mirror_upper_,
)

ARCHITECTURES = ["bert", "roberta", "distilbert", "deberta", "albert", "gpt2", "llama"]
BATCHES = [text_batch((5, 3, 6), seed=1), text_batch((2, 4), seed=2)]


def naive_rows(inputs: list[Tensor], masks: list[Tensor], *, real_only: bool = True) -> list[Tensor]:
    """The rows that count, picked one by one; ``inputs`` and ``masks`` call by call."""
    rows = []
    for tensor, mask in zip(inputs, masks, strict=True):
        if tensor.shape[:-1] == mask.shape:
            for example, tokens in enumerate(tensor):
                rows += [row for place, row in enumerate(tokens) if mask[example, place] or not real_only]
        elif tensor.shape[0] == mask.shape[0] and tensor.dim() == 2:
            rows += list(tensor)
    return rows


def naive_grams(
    model: nn.Module, batches: list[dict[str, Tensor]], *, real_only: bool = True
) -> tuple[dict[str, Tensor], dict[str, int]]:
    rows: dict[str, list[Tensor]] = {name: [] for name in linear_layers(model)}
    for batch in batches:
        inputs = captured_inputs(model, lambda batch=batch: model(**batch))
        for name in rows:
            masks = [batch["attention_mask"]] * len(inputs[name])
            rows[name] += naive_rows(inputs[name], masks, real_only=real_only)
    return {name: naive_gram(own) for name, own in rows.items()}, {name: len(own) for name, own in rows.items()}


def one_layer_at_a_time(
    model: nn.Module, batches: list[dict[str, Tensor]], **options: Any
) -> dict[str, GramStatistics]:
    """Statistics without any sharing: an accumulator for each layer."""
    return {name: collect_gram(model, batches, layers=[name], **options) for name in linear_layers(model)}


def assert_same_as_unshared(statistics: GramStatistics, unshared: dict[str, GramStatistics]) -> None:
    """Equal to the last bit."""
    for layer, own in unshared.items():
        assert torch.equal(statistics.matrix(layer), own.matrix(layer)), layer
        assert statistics.rows[statistics.shared[layer]] == own.rows[layer]


# The product


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 40), rows=st.integers(0, 9), block=st.integers(1, 12), seed=st.integers(0, 9))
def test_blocked_product_equals_the_whole_product(width: int, rows: int, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    start = torch.randn(width, width, generator=generator, dtype=torch.float64)
    start = start + start.T
    total = mirror_upper_(add_gram_(start.clone(), matrix, block_width=block))
    torch.testing.assert_close(total, start + matrix.T @ matrix, rtol=1e-12, atol=1e-12)
    assert torch.equal(total, total.T)


def test_blocks_below_the_diagonal_are_not_computed() -> None:
    total = add_gram_(torch.zeros(8, 8), torch.ones(3, 8), block_width=2)
    assert torch.equal(total[2:, :2], torch.zeros(6, 2))
    assert torch.equal(total[:2, 2:], torch.full((2, 6), 3.0))


# Against the definition


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mean_of_outer_products_of_real_tokens(architecture: str) -> None:
    model = classifier(architecture)
    statistics = collect_gram(model, BATCHES, dtype=torch.float64)
    expected, rows = naive_grams(model, BATCHES)
    assert statistics.layers == list(expected)
    assert (statistics.examples, statistics.batches) == (5, 2)
    for layer, matrix in expected.items():
        torch.testing.assert_close(statistics.matrix(layer), matrix, rtol=1e-10, atol=1e-12)
        assert statistics.rows[statistics.shared[layer]] == rows[layer]


def test_default_sums_are_float32_and_symmetric() -> None:
    model = classifier("bert").float()
    statistics = collect_gram(model, BATCHES)
    expected, _ = naive_grams(model, BATCHES)
    for layer, matrix in expected.items():
        own = statistics.matrix(layer)
        assert own.dtype == torch.float32
        assert torch.equal(own, own.T)
        torch.testing.assert_close(own.double(), matrix, rtol=1e-4, atol=1e-5)


def test_rows_of_tokens_and_of_examples_are_counted_by_their_shape() -> None:
    statistics = collect_gram(classifier("bert"), BATCHES)
    assert statistics.rows["bert.encoder.layer.0.attention.self.query"] == 5 + 3 + 6 + 2 + 4
    assert statistics.rows["bert.pooler.dense"] == 5
    assert statistics.rows["classifier"] == 5


def test_padding_is_counted_on_request() -> None:
    model = classifier("roberta")
    statistics = collect_gram(model, BATCHES, count_padding=True, dtype=torch.float64)
    expected, rows = naive_grams(model, BATCHES, real_only=False)
    for layer, matrix in expected.items():
        torch.testing.assert_close(statistics.matrix(layer), matrix, rtol=1e-10, atol=1e-12)
        assert statistics.rows[statistics.shared[layer]] == rows[layer]
    assert statistics.rows["roberta.encoder.layer.1.output.dense"] == 3 * 6 + 2 * 4


def test_more_padding_changes_nothing() -> None:
    model = classifier("bert")
    short = collect_gram(model, [text_batch((5, 3), seed=3)], dtype=torch.float64)
    wide = text_batch((5, 3), seed=3)
    wide = {name: nn.functional.pad(value, (0, 4)) for name, value in wide.items()}
    long = collect_gram(model, [wide], dtype=torch.float64)
    assert long.rows == short.rows
    for layer in short.layers:
        torch.testing.assert_close(long.matrix(layer), short.matrix(layer), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("leading", "counted"),
    [
        ((3, 4), 7),  # tokens, of which 7 are real
        ((3,), 3),  # one row an example
        ((3, 1), 3),
        ((3, 1, 1), 3),
        ((4,), None),
        ((1, 4), None),
        ((4, 3), None),
        ((3, 2), None),
        ((3, 4, 1), None),
        ((12,), 7),  # tokens, flattened as in mixtures of experts
        ((), None),
    ],
)
def test_rows_are_selected_by_the_leading_dimensions(leading: tuple[int, ...], counted: int | None) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0]])
    inputs = torch.randn(*leading, 2)
    selection = RowSelection(mask)
    assert selection.counts(inputs, mask) == (counted is not None)
    if counted is not None:
        assert selection.select(inputs, mask).shape == (counted, 2)
    everything = RowSelection(mask, count_padding=True, extra_rows=True)
    assert everything.counts(inputs, mask)
    assert torch.equal(everything.select(inputs, mask), inputs.reshape(-1, 2))


def test_without_a_mask_all_rows_count() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    inputs = torch.randn(4, 5, 3)
    with GramAccumulator(model) as accumulator, accumulator.batch():
        model(inputs)
    statistics = accumulator.compute()
    assert statistics.examples == 4
    assert statistics.rows == {"0": 20, "1": 20}
    expected = torch.einsum("bti,btj->ij", inputs.double(), inputs.double()) / 20
    torch.testing.assert_close(statistics.matrix("0").double(), expected, rtol=1e-5, atol=1e-6)


def test_relative_positions_of_deberta_are_left_out_unless_asked_for() -> None:
    model = classifier("deberta")
    query = "deberta.encoder.layer.0.attention.self.query_proj"
    value = "deberta.encoder.layer.0.attention.self.value_proj"
    tokens = collect_gram(model, BATCHES, dtype=torch.float64)
    assert tokens.rows[tokens.shared[query]] == 20
    assert tokens.shared[query] == tokens.shared[value]

    counted = collect_gram(model, BATCHES, extra_rows=True, dtype=torch.float64)
    inputs = [captured_inputs(model, lambda batch=batch: model(**batch))[query] for batch in BATCHES]
    positions = [row for calls in inputs for call in calls if call.shape[0] == 1 for row in call[0]]
    assert len(positions) == 2 * 2 * 3
    rows = [
        row
        for calls, batch in zip(inputs, BATCHES, strict=True)
        for row in naive_rows(calls[:1], [batch["attention_mask"]])
    ]
    torch.testing.assert_close(counted.matrix(query), naive_gram(rows + positions), rtol=1e-10, atol=1e-12)
    # The values never see the positions: the layer left the group that it began in.
    torch.testing.assert_close(counted.matrix(value), tokens.matrix(value), rtol=0, atol=0)
    assert counted.shared[query] != counted.shared[value]
    assert_same_as_unshared(counted, one_layer_at_a_time(model, BATCHES, extra_rows=True, dtype=torch.float64))


def test_order_of_batches_does_not_matter() -> None:
    model = classifier("bert")
    batches = [text_batch((3, 4), seed=seed) for seed in range(4)]
    forward = collect_gram(model, batches, dtype=torch.float64)
    backward = collect_gram(model, batches[::-1], dtype=torch.float64)
    assert forward.rows == backward.rows
    for layer in forward.layers:
        torch.testing.assert_close(forward.matrix(layer), backward.matrix(layer), rtol=1e-12, atol=1e-13)


# Masks of models with two sequences


def encoder_decoder() -> tuple[Any, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=37, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_decoder_layers=2, num_heads=2, pad_token_id=0
    )
    model = randomise(transformers.T5ForConditionalGeneration(config)).double().eval()
    batch = text_batch((5, 3), seed=4)
    decoder_mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    return model, {**batch, "decoder_input_ids": torch.randint(3, 9, (2, 3))}, decoder_mask


@pytest.mark.parametrize("as_function", [False, True])
def test_encoder_and_decoder_have_masks_of_their_own(as_function: bool) -> None:
    model, batch, decoder_mask = encoder_decoder()
    encoder_mask = batch["attention_mask"]

    def mask_of(layer: str, inputs: Tensor) -> Tensor:
        crosses = layer.endswith(("EncDecAttention.k", "EncDecAttention.v"))
        return encoder_mask if layer.startswith("encoder.") or crosses else decoder_mask

    patterns = {"encoder.*": encoder_mask, "*.EncDecAttention.[kv]": encoder_mask, "*": decoder_mask}
    mask = mask_of if as_function else patterns
    statistics = collect_gram(model, [batch], mask=lambda _: mask, dtype=torch.float64)
    inputs = captured_inputs(model, lambda: model(**batch))
    for layer in linear_layers(model):
        (own,) = inputs[layer]
        expected = naive_gram(naive_rows([own], [mask_of(layer, own)]))
        torch.testing.assert_close(statistics.matrix(layer), expected, rtol=1e-10, atol=1e-12)
    assert statistics.rows["encoder.block.0.layer.0.SelfAttention.q"] == 8
    assert statistics.rows["decoder.block.0.layer.0.SelfAttention.q"] == 5
    # All cross-attention keys and values of the decoder are fed the encoder's output.
    crossing = [layer for layer in statistics.layers if layer.endswith(("EncDecAttention.k", "EncDecAttention.v"))]
    assert len(crossing) == 4
    assert {statistics.shared[layer] for layer in crossing} == {crossing[0]}


def test_layers_with_the_same_input_and_different_masks_do_not_share() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.a(inputs) + self.b(inputs)

    model = Both()
    inputs = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    masks = {"a": torch.tensor([[1, 0]]), "b": torch.tensor([[0, 1]])}
    with GramAccumulator(model) as accumulator, accumulator.batch(mask=masks):
        model(inputs)
    statistics = accumulator.compute()
    assert statistics.matrix("a").tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert statistics.matrix("b").tolist() == [[0.0, 0.0], [0.0, 4.0]]
    assert statistics.examples == 1


def test_a_mapping_without_a_matching_pattern_counts_all_rows() -> None:
    model = nn.Linear(2, 2)
    with GramAccumulator(nn.Sequential(model)) as accumulator:
        with accumulator.batch(mask={}):
            model(torch.ones(3, 2))
        with accumulator.batch(mask={"other": torch.tensor([[1, 0]])}):
            model(torch.ones(4, 2))
    statistics = accumulator.compute()
    assert statistics.rows == {"0": 7}
    assert statistics.examples == 3 + 1


# Sharing


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sharing_changes_no_bit(architecture: str) -> None:
    model = classifier(architecture).float()
    assert_same_as_unshared(collect_gram(model, BATCHES), one_layer_at_a_time(model, BATCHES))


def test_query_key_and_value_share_a_matrix() -> None:
    statistics = collect_gram(classifier("bert"), BATCHES)
    attention = "bert.encoder.layer.1.attention.self"
    assert [statistics.shared[f"{attention}.{name}"] for name in ("query", "key", "value")] == [
        f"{attention}.query"
    ] * 3
    assert f"{attention}.key" not in statistics.matrices
    assert statistics.matrix(f"{attention}.key") is statistics.matrix(f"{attention}.query")
    dense = "bert.encoder.layer.1.intermediate.dense"
    assert statistics.shared[dense] == dense


class Scripted(nn.Module):
    """Three layers that are called with the inputs that a script names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, script: list[tuple[str, int]], tensors: list[Tensor]) -> None:
        for step, number in script:
            if step == "change":
                tensors[number].mul_(0.5).add_(1.0)
            else:
                getattr(self, step)(tensors[number])


steps = st.tuples(st.sampled_from(["a", "b", "c", "a", "b", "c", "change"]), st.integers(0, 2))


@settings(max_examples=300, deadline=None)
@given(
    scripts=st.lists(
        st.one_of(st.just([("a", 0), ("b", 0), ("c", 0)]), st.lists(steps, max_size=8)), min_size=1, max_size=4
    ),
    masked=st.booleans(),
)
def test_any_sequence_of_calls_gives_what_each_layer_alone_would_have(
    scripts: list[list[tuple[str, int]]], masked: bool
) -> None:
    called = {step for script in scripts for step, _ in script} - {"change"}
    model = Scripted()
    mask = torch.tensor([[1, 0], [1, 1]]) if masked else None

    def collect(layers: list[str]) -> GramStatistics:
        generator = torch.Generator().manual_seed(0)
        with GramAccumulator(model, layers) as accumulator, torch.no_grad():
            for script in scripts:
                tensors = [torch.randn(2, 2, 3, generator=generator) for _ in range(3)]
                with accumulator.batch(mask=mask, examples=2):
                    model(script, tensors)
        return accumulator.compute()

    if called:
        together = collect(sorted(called))
        assert_same_as_unshared(together, {layer: collect([layer]) for layer in sorted(called)})


def test_a_layer_that_leaves_its_group_keeps_the_sum_so_far() -> None:
    model = Scripted()
    together: list[tuple[str, int]] = [("a", 0), ("b", 0), ("c", 0)]
    apart: list[tuple[str, int]] = [("a", 0), ("b", 1), ("c", 0)]
    tensors = [torch.randn(4, 3) for _ in range(2)]
    with GramAccumulator(model, dtype=torch.float64) as accumulator, torch.no_grad():
        for script in (together, apart, together):
            with accumulator.batch():
                model(script, tensors)
    statistics = accumulator.compute()
    first, second = (tensor.double().T @ tensor.double() for tensor in tensors)
    assert statistics.shared == {"a": "a", "b": "b", "c": "a"}
    torch.testing.assert_close(statistics.matrix("a"), first / 4, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics.matrix("b"), (2 * first + second) / 12, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first_batch", [True, False])
def test_a_tensor_changed_in_place_is_another_input(first_batch: bool) -> None:
    model = Scripted()
    tensors = [torch.ones(2, 3)]
    with GramAccumulator(model, ["a", "b"]) as accumulator, torch.no_grad():
        if not first_batch:
            with accumulator.batch():
                model([("a", 0), ("b", 0)], tensors)
        with accumulator.batch():
            model([("a", 0), ("change", 0), ("b", 0)], tensors)
    statistics = accumulator.compute()
    assert statistics.matrix("a").unique().tolist() == [1.0]
    assert statistics.matrix("b").unique().tolist() == [1.5**2 if first_batch else (1.0 + 1.5**2) / 2]


def test_a_recycled_address_is_not_taken_for_the_same_input() -> None:
    model = Scripted()

    def fresh_tensor_with(identity: int) -> Tensor | None:
        others = []
        for _ in range(1000):
            candidate = torch.full((2, 3), 2.0)
            if id(candidate) == identity:
                return candidate
            others.append(candidate)
        return None

    with GramAccumulator(model, ["a", "b"]) as accumulator, torch.no_grad(), accumulator.batch(examples=2):
        tensor = torch.ones(2, 3)
        identity = id(tensor)
        model.a(tensor)
        del tensor
        second = fresh_tensor_with(identity)
        assert second is not None, "the interpreter did not reuse the address, so that nothing was tested"
        model.b(second)
    statistics = accumulator.compute()
    assert statistics.matrix("a").unique().tolist() == [1.0]
    assert statistics.matrix("b").unique().tolist() == [4.0]


def test_the_leader_is_the_first_layer_of_the_model_whichever_is_called_first() -> None:
    model = Scripted()
    with GramAccumulator(model, ["b", "a"]) as accumulator, accumulator.batch():
        model([("b", 0), ("a", 0)], [torch.ones(2, 3)])
    assert accumulator.compute().shared == {"a": "a", "b": "a"}


# Precision and modes


def test_bfloat16_inputs_are_summed_in_float32_under_autocast() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4))
    inputs = torch.randn(64, 9, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        (hidden,) = captured_inputs(model, lambda: model(inputs))["1"]
        with GramAccumulator(model) as accumulator:
            for _ in range(20):
                with accumulator.batch():
                    model(inputs)
    assert hidden.dtype == torch.bfloat16
    rows = hidden.reshape(-1, 16).double()
    matrix = accumulator.compute().matrix("1")
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.double(), rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


def test_inference_mode_and_no_grad_can_take_turns() -> None:
    model = classifier("bert")
    expected = collect_gram(model, BATCHES * 2, dtype=torch.float64)
    with GramAccumulator(model, dtype=torch.float64) as accumulator:
        for turn, batch in enumerate(BATCHES * 2):
            with torch.inference_mode(turn % 2 == 0), torch.no_grad(), accumulator.batch(batch["attention_mask"]):
                model(**batch)
    statistics = accumulator.compute()
    assert statistics.shared == expected.shared
    assert not statistics.matrix("classifier").is_inference()
    for layer in expected.layers:
        assert torch.equal(statistics.matrix(layer), expected.matrix(layer))


def test_gradients_of_a_training_step_are_not_disturbed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    inputs = torch.randn(5, 3)
    model(inputs).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    with GramAccumulator(model) as accumulator, accumulator.batch():
        model(inputs).sum().backward()
    actual = [parameter.grad for parameter in model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))
    assert not accumulator.compute().matrix("2").requires_grad


def test_inputs_passed_by_name_are_seen() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with GramAccumulator(model) as accumulator, accumulator.batch():
        model[0](input=torch.ones(3, 2))
    assert accumulator.compute().rows == {"0": 3}


# Hooks and batches


def test_only_forward_passes_inside_a_batch_count() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with GramAccumulator(model) as accumulator:
        model(torch.ones(3, 2))
        with accumulator.batch():
            model(torch.ones(1, 2))
        model(torch.ones(5, 2))
    model(torch.ones(7, 2))
    assert accumulator.compute().rows == {"0": 1}


def test_hooks_sit_on_the_requested_layers_alone_and_come_off() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    accumulator = GramAccumulator(model, ["1"])
    assert not model[1]._forward_pre_hooks
    accumulator.attach()
    accumulator.attach()
    assert (len(model[0]._forward_pre_hooks), len(model[1]._forward_pre_hooks)) == (0, 1)
    accumulator.detach()
    assert not model[1]._forward_pre_hooks


def test_begin_and_end_equal_the_with_block() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    accumulator = GramAccumulator(model)
    accumulator.attach()
    accumulator.begin_batch(mask=torch.tensor([[1, 0], [1, 1]]))
    model(torch.ones(2, 2, 2))
    accumulator.end_batch()
    statistics = accumulator.compute()
    assert (statistics.rows, statistics.examples, statistics.batches) == ({"0": 3}, 2, 1)


def test_collecting_goes_on_after_compute() -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    with GramAccumulator(model) as accumulator:
        for value, mean in ((1.0, 1.0), (3.0, 5.0)):
            with accumulator.batch():
                model(torch.tensor([[value]]))
            assert accumulator.compute().matrix("0").item() == mean


def test_collect_restores_the_training_flag_of_every_module() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 2))
    model.train()
    model[2].eval()
    inputs = torch.randn(6, 2)

    def forward(model: nn.Module, batch: Any) -> Tensor:
        assert not model.training
        return model(batch["inputs"])

    collect_gram(model, [{"inputs": inputs}], forward=forward)
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_collect_takes_models_without_logits_and_ignores_labels() -> None:
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> SimpleNamespace:
            return SimpleNamespace(hidden=self.layer(inputs))

    statistics = collect_gram(Body(), [{"inputs": torch.ones(3, 2), "labels": torch.zeros(3)}])
    assert (statistics.examples, statistics.rows) == (3, {"layer": 3})


# Errors


def test_layers_without_rows_are_named() -> None:
    model = Scripted()
    with GramAccumulator(model) as accumulator, accumulator.batch():
        model([("a", 0)], [torch.ones(2, 3)])
    with pytest.raises(StatisticsError, match="no input rows were seen by 'b', 'c'"):
        accumulator.compute()


def test_layers_whose_inputs_do_not_fit_the_mask_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with GramAccumulator(model) as accumulator, accumulator.batch(mask=torch.ones(2, 3)):
        model(torch.ones(1, 3, 2))
    with pytest.raises(StatisticsError, match="no input rows were seen by '0'"):
        accumulator.compute()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_layers_whose_matrix_is_not_finite_are_named(value: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[1, 0] = value
    with GramAccumulator(model) as accumulator, accumulator.batch():
        model(torch.ones(1, 2))
    with pytest.raises(StatisticsError, match="Gram matrix of '1'"):
        accumulator.compute()


def test_a_failed_batch_spoils_the_sums() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with GramAccumulator(model) as accumulator:
        with accumulator.batch():
            model(torch.ones(1, 2))
        with pytest.raises(KeyError), accumulator.batch():
            model(torch.ones(1, 2))
            raise KeyError
        with accumulator.batch():
            model(torch.ones(1, 2))
    with pytest.raises(StatisticsError, match="half-way"):
        accumulator.compute()


def test_misuse_is_told() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    accumulator = GramAccumulator(model)
    with pytest.raises(StatisticsError, match="detached"):
        accumulator.begin_batch()
    with pytest.raises(StatisticsError, match="no batch"):
        accumulator.compute()
    accumulator.attach()
    with pytest.raises(StatisticsError, match="without begin_batch"):
        accumulator.end_batch()
    accumulator.begin_batch()
    with pytest.raises(StatisticsError, match="twice"):
        accumulator.begin_batch()
    with pytest.raises(StatisticsError, match="inside a batch"):
        accumulator.compute()
    with pytest.raises(StatisticsError, match="bfloat16"):
        GramAccumulator(model, dtype=torch.bfloat16)


# Statistics


def test_combine_equals_collecting_everything() -> None:
    model = classifier("roberta")
    batches = [text_batch((3, 4, 2), seed=seed) for seed in range(3)]
    whole = collect_gram(model, batches, dtype=torch.float64)
    parts = collect_gram(model, batches[:1], dtype=torch.float64).combine(
        collect_gram(model, batches[1:], dtype=torch.float64)
    )
    assert (parts.rows, parts.shared) == (whole.rows, whole.shared)
    assert (parts.examples, parts.batches) == (9, 3)
    for layer in whole.layers:
        torch.testing.assert_close(parts.matrix(layer), whole.matrix(layer), rtol=1e-12, atol=1e-13)


def test_combine_shares_only_what_both_share() -> None:
    one = GramStatistics({"a": torch.eye(1)}, {"a": "a", "b": "a"}, {"a": 1}, 1, 1)
    two = GramStatistics({"a": torch.eye(1), "b": 5 * torch.eye(1)}, {"a": "a", "b": "b"}, {"a": 3, "b": 1}, 1, 1)
    both = one.combine(two)
    assert both.shared == {"a": "a", "b": "b"}
    assert both.rows == {"a": 4, "b": 2}
    assert (both.matrix("a").item(), both.matrix("b").item()) == (1.0, 3.0)


def test_combine_refuses_different_layers_and_matrix_unknown_ones() -> None:
    one = GramStatistics({"a": torch.eye(1)}, {"a": "a"}, {"a": 1}, 1, 1)
    two = GramStatistics({"b": torch.eye(1)}, {"b": "b"}, {"b": 1}, 1, 1)
    with pytest.raises(StatisticsError, match="'a', 'b'"):
        one.combine(two)
    with pytest.raises(StatisticsError, match="'c'; there are 'a'"):
        one.matrix("c")

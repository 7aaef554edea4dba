"""Optimal transport against models whose neurons were permuted, and against brute force."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedModel, T5Config, T5EncoderModel

from regmean_lab.merging import Layout, MergeError, MergeMember, merge_members
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.optimal_transport import OptimalTransport, transport_plan
from regmean_lab.statistics import collect_gram

BERT = BertConfig(vocab_size=40, hidden_size=8, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
GPT2 = GPT2Config(vocab_size=40, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
T5 = T5Config(vocab_size=40, d_model=8, d_ff=24, d_kv=4, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
MODELS = [(BertModel, BERT), (GPT2Model, GPT2), (T5EncoderModel, T5)]
TOKENS = torch.arange(14).reshape(2, 7)


def permuted(model: PreTrainedModel, layout: Layout) -> PreTrainedModel:
    """A copy of a model with the neurons of its feed-forward blocks in another order."""
    other = copy.deepcopy(model)
    state = other.state_dict()
    for block in layout.feed_forward:
        weight = state[f"{block.second.name}.weight"]
        order = torch.randperm(weight.shape[0 if block.second.transposed else 1])
        for layer in block.first:
            name = f"{layer.name}.weight"
            state[name] = state[name][:, order] if layer.transposed else state[name][order]
            if f"{layer.name}.bias" in state:
                state[f"{layer.name}.bias"] = state[f"{layer.name}.bias"][order]
        state[f"{block.second.name}.weight"] = weight[order] if block.second.transposed else weight[:, order]
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize(("model_class", "config"), MODELS)
@pytest.mark.parametrize("then", ["simple", "regmean"])
def test_permuted_neurons_are_recovered_and_the_function_stays(
    model_class: type[PreTrainedModel], config: object, then: str
) -> None:
    torch.manual_seed(0)
    model = model_class(config).eval()
    layout = layout_of(model)
    assert len(layout.feed_forward) == 2
    other = permuted(model, layout)
    members = [
        MergeMember(name, part.state_dict(), collect_gram(part, [{"input_ids": TOKENS}]) if then == "regmean" else None)
        for name, part in (("a", model), ("b", other))
    ]
    merged = {part.name: part.value for part in merge_members(OptimalTransport(then=then), members, layout)}
    for name, value in other.state_dict().items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-6)
    result = copy.deepcopy(model)
    result.load_state_dict(merged)
    with torch.no_grad():
        torch.testing.assert_close(
            result(TOKENS).last_hidden_state, model(TOKENS).last_hidden_state, rtol=1e-4, atol=1e-5
        )


def test_the_plan_is_the_cheapest_permutation() -> None:
    torch.manual_seed(1)
    first, second = torch.randn(6, 4), torch.randn(6, 4)
    unit_first, unit_second = (part / part.norm(dim=1, keepdim=True) for part in (first, second))
    costs = {
        order: sum(float((unit_first[i] - unit_second[j]).norm()) for i, j in enumerate(order))
        for order in itertools.permutations(range(6))
    }
    best = min(costs, key=lambda order: costs[order])
    expected = torch.zeros(6, 6, dtype=torch.float64)
    expected[range(6), best] = 1
    torch.testing.assert_close(transport_plan(first, second), expected)


def test_more_than_two_models_are_refused() -> None:
    model = BertModel(BERT)
    members = [MergeMember(name, model.state_dict()) for name in "abc"]
    assert OptimalTransport().count_problems(3)
    with pytest.raises(MergeError, match="exactly two"):
        list(merge_members(OptimalTransport(), members, layout_of(model)))


def test_a_model_without_feed_forward_blocks_is_refused() -> None:
    layer = torch.nn.Linear(4, 4)
    members = [MergeMember(name, layer.state_dict()) for name in "ab"]
    with pytest.raises(MergeError, match="no feed-forward block"):
        list(merge_members(OptimalTransport(), members, layout_of(layer)))

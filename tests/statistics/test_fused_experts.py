"""Gram matrices of the experts of mixtures, against the inputs in the models' own plain implementation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from regmean_lab.statistics import (
    GramAccumulator,
    GramFile,
    StatisticsError,
    collect_gram,
    expert_layers,
    fused_experts,
    linear_layers,
    save_gram,
)

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def mixture(kind: str, implementation: str = "grouped_mm") -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel
    if kind == "mixtral":
        model = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=6))
    elif kind == "qwen2_moe":
        sizes = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 8, "num_experts": 6}
        model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES, **sizes, num_experts_per_tok=2))
    else:
        sizes = {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 8}
        model = GptOssForCausalLM(GptOssConfig(**SIZES, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    model.set_experts_implementation(implementation)
    return model.eval()


class Products(TorchFunctionMode):
    """The inputs of all products with a slice of a parameter of three dimensions, by parameter and number of slice."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.rows: dict[str, list[Tensor]] = {}
        self._names = {
            part.data_ptr() + part[0].numel() * part.element_size() * number: f"{name}.{number}"
            for name, part in model.named_parameters()
            if part.dim() == 3
            for number in range(len(part))
        }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (nn.functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__):
            inputs, weight = args[:2]
            if (name := self._names.get(weight.data_ptr())) is not None:
                self.rows.setdefault(name, []).extend(inputs.double())
        return function(*args, **(kwargs or {}))


@contextmanager
def products(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    with torch.no_grad(), Products(model) as mode:
        yield mode.rows


def texts(count: int = 5, length: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (count, length), generator=generator)
    mask = torch.arange(length) < torch.tensor([9, 4, 6, 9, 2])[:count, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_grams_of_experts_are_those_of_their_inputs_at_real_tokens(kind: str) -> None:
    """Each text alone, without padding, in the plain implementation; together, with padding, in the fast one."""
    plain, batch = mixture(kind, "eager"), texts()
    with products(plain) as rows:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            plain(input_ids=ids[None, : int(mask.sum())])
    statistics = collect_gram(mixture(kind), [batch])
    layers = expert_layers(plain)
    assert set(statistics.layers) == {*linear_layers(plain), *layers}
    assert set(rows) == set(layers) - set(statistics.unseen)
    for layer, found in rows.items():
        expected = sum((torch.outer(row, row) for row in found), torch.zeros(())) / len(found)
        torch.testing.assert_close(statistics.matrix(layer).double(), expected, rtol=1e-4, atol=1e-4)
        assert statistics.rows[layer] == len(found)
    # What a mixture flattens to [batch · tokens, in] is told by the mask too.
    flattened = [layer for layer in linear_layers(plain) if layer.endswith("shared_expert.gate_proj")]
    assert bool(flattened) == (kind == "qwen2_moe")
    for layer in flattened:
        assert statistics.rows[statistics.shared[layer]] == int(batch["attention_mask"].sum())


def test_an_expert_without_tokens_has_a_matrix_of_zeros(tmp_path: Path) -> None:
    model, few, more = mixture("mixtral"), texts(1, 2), texts()
    statistics = collect_gram(model, [few])
    assert statistics.unseen
    layer = next(iter(statistics.unseen))
    assert torch.equal(statistics.matrix(layer), torch.zeros(16, 16))
    save_gram(tmp_path / "gram.safetensors", statistics, {})
    file = GramFile(tmp_path / "gram.safetensors")
    assert set(file.layers) == set(statistics.layers)
    assert file.width(layer) == 16
    assert torch.equal(file.matrix(layer), torch.zeros(16, 16))
    whole = collect_gram(model, [few, more])
    together = statistics.combine(collect_gram(model, [more]))
    assert set(together.layers) == set(whole.layers)
    for name in whole.layers:
        torch.testing.assert_close(together.matrix(name), whole.matrix(name), rtol=1e-4, atol=1e-5)


def test_experts_that_compute_something_else_are_refused() -> None:
    model = mixture("mixtral")
    experts: Any = next(iter(fused_experts(model).values())).module
    forward = type(experts).forward
    experts.forward = lambda *args: forward(experts, *args).sin() * 3
    batch = texts()
    expected = r"experts of 'model\.layers\.0\.mlp\.experts' \(MixtralExperts\)"
    with torch.no_grad(), GramAccumulator(model) as accumulator, pytest.raises(StatisticsError, match=expected):
        accumulator.begin_batch(mask=batch["attention_mask"])
        model(**batch)


def test_only_the_layers_that_are_asked_for() -> None:
    layer = "model.layers.1.mlp.experts.down_proj.2"
    statistics = collect_gram(mixture("mixtral"), [texts()], layers=[layer, "lm_head"])
    assert set(statistics.layers) == {layer, "lm_head"}
    assert replace(statistics).rows[layer] > 0

"""Gram matrices collected block by block are those of the whole model; models that do not divide so are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from regmean_lab.statistics import GramStatistics, StatisticsError, collect_gram, linear_layers
from regmean_lab.statistics.block_passes import find_blocks
from regmean_lab.statistics.blockwise import gram_by_blocks
from regmean_lab.statistics.held_outputs import HeldOutputs

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
SPARSE: dict[str, Any] = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 8, "num_experts": 5}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8, sliding_window=3)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=2, n_positions=32)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=5)),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SIZES, **SPARSE, num_key_value_heads=2, num_experts_per_tok=2)
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0)
    ),
}
WIDE = 1 << 30


def make(kind: str) -> nn.Module:
    torch.manual_seed(1)
    return MODELS[kind]().eval()


def texts(kind: str) -> list[dict[str, Tensor]]:
    """Three batches with padding, of different shapes."""
    generator, batches = torch.Generator().manual_seed(0), []
    for count, length in ((5, 9), (3, 7), (2, 9)):
        ids = torch.randint(1, 40, (count, length), generator=generator)
        mask = torch.arange(length) < torch.randint(2, length + 1, (count, 1), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": mask.long()})
        if kind == "t5":
            batches[-1]["decoder_input_ids"] = ids[:, :4].clone()
    return batches


def mask_of(batch: Any) -> Any:
    if "decoder_input_ids" not in batch:
        return batch["attention_mask"]
    read = batch["attention_mask"]
    return {"encoder.*": read, "*EncDecAttention.[kv]": read, "*": torch.ones_like(batch["decoder_input_ids"])}


def by_blocks(model: nn.Module, batches: list[Any], folder: Path, limit: int, **settings: Any) -> list[GramStatistics]:
    """The statistics of all blocks; whatever was held is gone afterwards."""
    held = HeldOutputs(folder / "held", limit)
    found = [
        part.statistics
        for part in gram_by_blocks(model, batches, held, mask=mask_of, **settings)
        if part.statistics is not None
    ]
    held.close()
    assert (held.memory_bytes, held.file_bytes) == (0, 0)
    assert not list(folder.rglob("*.safetensors"))
    return found


def check_equal(parts: list[GramStatistics], whole: GramStatistics) -> None:
    layers = [layer for part in parts for layer in part.layers]
    assert sorted(layers) == sorted(whole.layers)
    for part in parts:
        assert (part.examples, part.batches) == (whole.examples, whole.batches)
        assert part.unseen.items() <= whole.unseen.items()
        for layer, leader in part.shared.items():
            torch.testing.assert_close(part.matrices[leader], whole.matrix(layer), rtol=1e-5, atol=1e-6)
            assert part.rows[leader] == whole.rows[whole.shared[layer]]


@pytest.mark.parametrize("limit", [WIDE, 2500, 0], ids=["memory", "some", "files"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_matrices_are_those_of_the_whole_model(kind: str, limit: int, tmp_path: Path) -> None:
    model, batches = make(kind), texts(kind)
    whole = collect_gram(model, batches, mask=mask_of)
    parts = by_blocks(model, batches, tmp_path, limit)
    check_equal(parts, whole)
    assert len(parts) == len(find_blocks(model)) + (kind != "t5" or "lm_head" in whole.layers)
    if kind != "t5":  # whose cross-attentions all read the encoder's output, in blocks of their own
        assert {layer: leader for part in parts for layer, leader in part.shared.items()} == whole.shared


def test_a_weight_is_there_only_while_its_block_runs(tmp_path: Path) -> None:
    model, empty, batches = make("llama"), make("llama"), texts("llama")
    stored = {name: tensor.detach().bfloat16() for name, tensor in model.state_dict().items()}
    model.load_state_dict(stored)
    for name, parameter in list(empty.named_parameters()):
        path, _, own = name.rpartition(".")
        setattr(empty.get_submodule(path), own, nn.Parameter(parameter.detach().to("meta")))
    read: list[str] = []
    there: list[set[str]] = []

    def from_file(name: str) -> Tensor:
        read.append(name)
        return stored[name]

    def forward(model: nn.Module, batch: Any) -> None:
        there.append({name for name, parameter in model.named_parameters() if not parameter.is_meta})
        model(**batch)

    settings = {"read": from_file, "weights_dtype": torch.float32, "forward": forward}
    parts = by_blocks(empty, batches, tmp_path, WIDE, **settings)
    check_equal(parts, collect_gram(model, batches))
    assert sorted(read) == sorted(stored)  # each once
    blocks = [{name.split(".")[2] for name in names if ".layers." in name} for names in there]
    assert {frozenset(block) for block in blocks} == {frozenset(), *(frozenset(str(number)) for number in range(3))}
    assert all({"lm_head.weight", "model.norm.weight"} <= names for names in there)
    assert all(parameter.is_meta for parameter in empty.parameters())
    with pytest.raises(StatisticsError, match=r"'model.embed_tokens.weight' has no values"):
        by_blocks(empty, batches, tmp_path, WIDE)


def test_only_the_layers_that_are_asked_for_and_the_model_as_it_was(tmp_path: Path) -> None:
    model, batches = make("llama").train(), texts("llama")
    layers = ["model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
    parts = by_blocks(model, batches, tmp_path, WIDE, layers=layers)
    check_equal(parts, collect_gram(model, batches, layers=layers))
    assert all(module.training and "forward" not in module.__dict__ for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    with pytest.raises(StatisticsError, match="not a linear layer of LlamaForCausalLM: 'head'"):
        by_blocks(model, batches, tmp_path, WIDE, layers=["head"])
    with pytest.raises(StatisticsError, match="no batch was collected"):
        by_blocks(model, [], tmp_path, WIDE)


def test_padding_counts_where_it_is_asked_for(tmp_path: Path) -> None:
    model, batches = make("bert"), texts("bert")
    parts = by_blocks(model, batches, tmp_path, WIDE, count_padding=True, dtype=torch.float64)
    whole = collect_gram(model, batches, count_padding=True, dtype=torch.float64)
    check_equal(parts, whole)
    assert max(whole.rows.values()) == 5 * 9 + 3 * 7 + 2 * 9


class Chain(nn.Module):
    """Three blocks one after the other, and what a test makes of it."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(count)])
        self.outside = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        for block in self.inner:
            x = block(x)
        return self.outside(x)


class ReadsAll(Chain):
    def forward(self, x: Tensor) -> Any:
        seen = [x]
        for block in self.inner:
            seen.append(block(sum(seen, torch.zeros(()))))
        return self.outside(seen[-1])


class Between(Chain):
    def forward(self, x: Tensor) -> Any:
        for block in self.inner:
            x = block(self.outside(x))
        return x


class Inside(Chain):
    def __init__(self) -> None:
        super().__init__()
        outside = self.outside
        for block in self.inner:
            block[1].forward = lambda x: outside(x)  # known to no block as a module of its own


class Again(Chain):
    def forward(self, x: Tensor) -> Any:
        return self.outside(self.inner[0](super().forward(x)))


class Shared(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.inner[2][0] = self.inner[0][0]


class Odd(Chain):
    def forward(self, x: Tensor) -> Any:
        for block in list(self.inner) if len(x) > 2 else reversed(list(self.inner)):
            x = block(x)
        return self.outside(x)


class Strange(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.inner[0].forward = lambda x: {1, 2}


class Lost(Chain):
    def forward(self, x: Tensor) -> Any:
        return self.outside(self.inner[1](self.inner[0](x)))


REFUSED = {
    ReadsAll: r"'inner\.2' of ReadsAll reads more of the blocks before it \('inner.0', 'inner.1'\) than what the last",
    Between: r"'outside' of Between reads more of the blocks before it",
    Inside: r"'inner\.0' calls 'outside', which is in no block",
    Again: r"Again calls 'inner\.0' more than once in a forward pass",
    Shared: r"the blocks 'inner\.0' and 'inner\.2' of Shared share a Linear",
    Odd: r"Odd calls 'inner\.2' for batch 2 where it calls 'inner\.0' for the first one",
    Strange: r"'inner\.0' \(Sequential\) gives a set, of which it is not known what it holds",
    Lost: r"no input rows were seen by 'inner\.2\.0'; the model does not call their blocks",
}


@pytest.mark.parametrize("model_class", REFUSED, ids=lambda model: model.__name__)
def test_a_model_whose_blocks_do_not_run_one_by_one_is_refused(model_class: type[Chain], tmp_path: Path) -> None:
    batches = [{"x": torch.randn(3, 4)}, {"x": torch.randn(2, 4)}]
    with pytest.raises(StatisticsError, match=REFUSED[model_class]) as error:
        list(gram_by_blocks(model_class().eval(), batches, HeldOutputs(tmp_path, WIDE)))
    assert model_class is Lost or "(blocks=false)" in str(error.value)


def test_any_model_of_blocks_is_measured(tmp_path: Path) -> None:
    model = Chain().eval()
    model.inner[2][1] = model.inner[0][1]  # shares no parameters
    batches = [{"x": torch.randn(3, 4)}, {"x": torch.randn(2, 4)}]
    held = HeldOutputs(tmp_path, WIDE)
    parts = [part.statistics for part in gram_by_blocks(model, batches, held) if part.statistics is not None]
    check_equal(parts, collect_gram(model, batches))


def test_what_is_repeated_is_refused_although_no_layer_outside_is_measured(tmp_path: Path) -> None:
    batches, model = [{"x": torch.randn(3, 4)}], Again().eval()
    layers = [name for name in linear_layers(model) if name != "outside"]
    with pytest.raises(StatisticsError, match="more than once"):
        list(gram_by_blocks(model, batches, HeldOutputs(tmp_path, WIDE), layers=layers))


def test_shared_layers_and_models_without_blocks_are_refused(tmp_path: Path) -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "pad_token_id"}
    albert = AlbertForSequenceClassification(AlbertConfig(**sizes, embedding_size=8)).eval()
    with pytest.raises(StatisticsError, match=r"calls 'albert\.encoder\.albert_layer_groups\.0' more than once"):
        by_blocks(albert, texts("albert"), tmp_path, WIDE)
    with pytest.raises(StatisticsError, match="Sequential has no list of blocks"):
        list(gram_by_blocks(nn.Sequential(nn.Linear(4, 4)), [{"x": torch.ones(1, 4)}], HeldOutputs(tmp_path, WIDE)))


def test_a_list_of_linear_layers_is_of_no_blocks() -> None:
    model = Chain()
    model.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 3)])
    assert list(find_blocks(model)) == ["inner.0", "inner.1", "inner.2"]


def test_weights_that_are_not_finite_are_not_taken_for_a_model_of_another_kind(tmp_path: Path) -> None:
    model, batches = make("llama"), texts("llama")
    with torch.no_grad():
        model.get_parameter("model.layers.0.mlp.down_proj.weight")[0, 0] = torch.nan
    with pytest.raises(StatisticsError, match=r"NaN or infinity in the Gram matrix of 'model.layers.1"):
        by_blocks(model, batches, tmp_path, WIDE)

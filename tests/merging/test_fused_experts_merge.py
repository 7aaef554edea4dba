"""Experts of mixtures are solved for one by one; matrices that are not solved for are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.output import write_output
from regmean_lab.merging import MergeMember, MergeMethod, merge_members
from regmean_lab.merging.layout import averaged_line, layout_of, other_maps
from regmean_lab.merging.mats import Mats
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.simple import Simple
from regmean_lab.statistics import GramStatistics, collect_gram, save_gram

GATES = ["model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"]
EXPERTS = "model.layers.1.mlp.experts"


def mixture(seed: int) -> MixtralForCausalLM:
    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=6,
    )
    model = MixtralForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return model.eval()


def statistics_of(model: nn.Module, tokens: int, seed: int) -> GramStatistics:
    generator = torch.Generator().manual_seed(seed)
    return collect_gram(model, [{"input_ids": torch.randint(1, 40, (1, tokens), generator=generator)}])


def regression_mean(weights: list[Tensor], grams: list[Tensor], factor: float) -> np.ndarray:
    """(Σ Gᵢ)⁻¹ Σ Gᵢ Wᵢ as [out, in], in float64 with an explicit inverse."""
    scaled = [factor * gram.double() + (1 - factor) * torch.diag(gram.diagonal()).double() for gram in grams]
    right = sum((gram @ weight.double().T for gram, weight in zip(scaled, weights, strict=True)), torch.zeros(()))
    return (np.linalg.inv(torch.stack(scaled).sum(0).numpy()) @ right.numpy()).T


@pytest.fixture(scope="module")
def models() -> list[MixtralForCausalLM]:
    return [mixture(seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def grams(models: list[MixtralForCausalLM]) -> list[GramStatistics]:
    """The second member has seen so few tokens that it sent none to some experts."""
    return [statistics_of(model, count, seed) for model, count, seed in zip(models, (200, 2), (0, 1), strict=True)]


def check_experts(merged: dict[str, Tensor], models: list[MixtralForCausalLM], grams: list[GramStatistics]) -> None:
    states = [model.state_dict() for model in models]
    for part in ("gate_up_proj", "down_proj"):
        name = f"{EXPERTS}.{part}"
        for expert in range(6):
            weights, matrices = (
                [state[name][expert] for state in states],
                [gram.matrix(f"{name}.{expert}") for gram in grams],
            )
            if all(f"{name}.{expert}" in gram.unseen for gram in grams):
                expected = torch.stack(weights).mean(0).numpy()
            else:
                expected = regression_mean(weights, matrices, 0.9)
            np.testing.assert_allclose(merged[name][expert].double().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_every_expert_is_solved_for(models: list[MixtralForCausalLM], grams: list[GramStatistics]) -> None:
    """An expert that one member sent nothing to has the other's weights; one that none did has their mean."""
    members = [
        MergeMember(name, model.state_dict(), gram) for name, model, gram in zip("ab", models, grams, strict=True)
    ]
    layout = layout_of(models[0])
    merged = {part.name: part.value for part in merge_members(RegMean(), members, layout)}
    check_experts(merged, models, grams)
    unseen = [layer for layer in grams[1].unseen if layer not in grams[0].unseen and layer.startswith(EXPERTS)]
    assert unseen
    name, _, expert = unseen[0].rpartition(".")
    torch.testing.assert_close(merged[name][int(expert)], models[0].state_dict()[name][int(expert)])
    averaged = {part.name: part.value for part in merge_members(Simple(), members, layout)}
    excluded = RegMean(exclude_layers=["*.experts.*"])
    left = {part.name: part.value for part in merge_members(excluded, members, layout)}
    assert torch.equal(left[f"{EXPERTS}.down_proj"], averaged[f"{EXPERTS}.down_proj"])


def test_checkpoints_of_mixtures_are_merged_with_published_statistics(
    models: list[MixtralForCausalLM], grams: list[GramStatistics], tmp_path: Path
) -> None:
    for name, model, gram in zip("ab", models, grams, strict=True):
        model.save_pretrained(tmp_path / name, save_original_format=False)
        save_gram(tmp_path / name / "statistics" / "gram.safetensors", gram, {})
    prepared = prepare_merge(MergeRequest([str(tmp_path / name) for name in "ab"], RegMean()))
    write_output(prepared, tmp_path / "out", {"name": "regmean"})
    check_experts(load_file(tmp_path / "out" / "model.safetensors"), models, grams)
    line = "averaged, as regmean has no inputs of them: model.layers.*.mlp.gate.weight (2)"
    assert prepared.agreement.notes.count(line) == 1
    for file in ("README.md", "merge.json"):
        assert line in (tmp_path / "out" / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "experts"), [(RegMean(), False), (RegMeanPlusPlus(), True), (Mats(), True), (Simple(), None)]
)
def test_matrices_that_are_averaged_are_named(
    models: list[MixtralForCausalLM], method: MergeMethod, experts: bool | None
) -> None:
    names = set(models[0].state_dict())
    averaged = set(method.averaged_maps(names, layout_of(models[0])))
    fused = {f"model.layers.{layer}.mlp.experts.{part}" for layer in (0, 1) for part in ("gate_up_proj", "down_proj")}
    assert averaged == {None: set(), False: set(GATES), True: {*GATES, *fused}}[experts]


def test_kinds_of_matrices_that_are_no_linear_layers() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.linear = nn.Linear(4, 4)
            self.tied = nn.Linear(4, 5, bias=False)
            self.tied.weight = self.embedding.weight
            self.norm = nn.LayerNorm([3, 4])
            self.convolution = nn.Conv1d(4, 4, 3)
            self.attention = nn.MultiheadAttention(4, 2)
            self.bilinear = nn.Bilinear(4, 4, 2)
            self.projection = nn.Parameter(torch.zeros(4, 3))
            self.positions = nn.ParameterDict({"position_table": nn.Parameter(torch.zeros(1, 6, 4))})
            self.vector = nn.Parameter(torch.zeros(1, 4))

    assert set(other_maps(Model())) == {
        "convolution.weight",
        "attention.in_proj_weight",
        "bilinear.weight",
        "projection",
    }


def test_one_line_for_layers_that_are_alike() -> None:
    names = ["conv.weight", "layers.0.gate.weight", "layers.1.gate.weight"]
    expected = "averaged, as mats has no inputs of them: conv.weight, layers.*.gate.weight (2)"
    assert averaged_line(names, "mats") == expected
    assert averaged_line([], "mats") is None


def with_constant(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """A router's input whose first feature is 1, so that its weights for it are added to the experts' logits."""
    states = args[0].clone()
    states[..., 0] = 1.0
    return (states,)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
def test_experts_that_no_member_used_keep_the_mean(kind: str, tmp_path: Path) -> None:
    """The last expert gets no tokens of either member; the one before gets some of the first member alone."""
    own = {"num_local_experts": 6, "intermediate_size": 12}
    if kind == "qwen2_moe":
        own = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "max_window_layers": 1}
        own["shared_expert_intermediate_size"] = 12
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=40, hidden_size=16, num_hidden_layers=1, **heads, **own)
    models, grams = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape))
        never = (4, 5) if seed else (5,)
        gate = model.model.layers[0].mlp.gate

        with torch.no_grad():
            gate.weight[:, 0] = torch.tensor([-1e4 if expert in never else 0.0 for expert in range(6)])
        handle = gate.register_forward_pre_hook(with_constant)
        grams.append(statistics_of(model, 200, seed))
        handle.remove()
        model.save_pretrained(tmp_path / str(seed), save_original_format=False)
        save_gram(tmp_path / str(seed) / "statistics" / "gram.safetensors", grams[-1], {})
        models.append(model)
    prepared = prepare_merge(MergeRequest([str(tmp_path / str(seed)) for seed in (0, 1)], RegMean()))
    write_output(prepared, tmp_path / "out", {"name": "regmean"})
    merged = load_file(tmp_path / "out" / "model.safetensors")
    states = [model.state_dict() for model in models]
    for part in ("gate_up_proj", "down_proj"):
        name = f"model.layers.0.mlp.experts.{part}"
        assert f"{name}.5" in grams[0].unseen
        assert f"{name}.5" in grams[1].unseen
        assert f"{name}.4" in grams[0].shared
        assert f"{name}.4" in grams[1].unseen
        torch.testing.assert_close(merged[name][5], (states[0][name][5] + states[1][name][5]) / 2, rtol=0, atol=1e-7)
        for expert in range(5):
            weights = [state[name][expert] for state in states]
            expected = regression_mean(weights, [gram.matrix(f"{name}.{expert}") for gram in grams], 0.9)
            np.testing.assert_allclose(merged[name][expert].double().numpy(), expected, rtol=1e-3, atol=1e-4)

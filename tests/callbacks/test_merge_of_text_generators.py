from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from regmean_lab.callbacks.merge import MemberSource, MergeCallback
from regmean_lab.callbacks.statistics import StatisticsRequest, open_statistics
from regmean_lab.config.groups import FisherConfig, GradientGramConfig, GramConfig, ModelConfig, TrainerConfig
from regmean_lab.evaluation.scores import load_module
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.layout import layout_of
from regmean_lab.merging.mats import Mats
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.models.base_weights import base_weights
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.merged_model import write_merged_model
from regmean_lab.models.pretrained import Checkpoint, head_parameters
from regmean_lab.models.task_models import generation_class
from regmean_lab.modules import TaskModule
from regmean_lab.modules.text_generation import TextGenerationModule
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.emotion_text import EmotionTextSettings, EmotionTextSuite
from regmean_lab.training.trainers import test_trainer as make_trainer
from regmean_lab.zoo import Zoo

REQUESTS = [
    StatisticsRequest("gram", GramConfig(examples=60), batch_size=16, seed=0, precision="32-true"),
    StatisticsRequest("fisher", FisherConfig(examples=10), batch_size=5, seed=0, precision="32-true"),
    StatisticsRequest("gradient_gram", GradientGramConfig(examples=10), batch_size=5, seed=0, precision="32-true"),
]
TIED = {
    "t5_tied": ("shared.weight", "lm_head.weight"),
    "gpt2": ("transformer.wte.weight", "lm_head.weight"),
}
"""The embedding, and the output layer that has the same weight."""
KINDS = ("t5", *TIED)


@dataclass
class Members:
    """Two models with random weights."""

    sources: list[MemberSource]
    checkpoint: Checkpoint

    def weights(self) -> list[dict[str, Tensor]]:
        return [load_file(source.entry.weights_path) for source in self.sources]

    def merge(self, method: MergeMethod) -> tuple[TaskModule, list[Tensor]]:
        """A module that was tested with the merge, and what it predicted."""
        module = self.sources[0].load()
        base = partial(base_weights, self.checkpoint, cache_dir=self.sources[0].entry.path.parent / "base")
        callback = MergeCallback(self.sources, method, REQUESTS, base=base)
        trainer = make_trainer(TrainerConfig(accelerator="cpu", progress_bar=False), [callback])
        trainer.test(module, self.sources[0].batches(20, 8, 0), verbose=False)
        return module, [part.logits for part in module.predictions()]

    def grams(self) -> list[Any]:
        """Of the layers that are merged as layers: an output layer that is tied to the embedding is not among them."""
        merged = layout_of(self.sources[0].load().model).linear.values()
        request = replace(REQUESTS[0], layers=tuple(layer.name for layer in merged))
        return [open_statistics(source.entry, request, source.data_fingerprint) for source in self.sources]


def checkpoint_of(kind: str, folder: Path, cache: Path) -> Checkpoint:
    """The pico models, and T5 with its output layer tied to the embedding, as version 1.0 has it."""
    if kind != "t5_tied":
        return find_checkpoint(ModelConfig(kind, f"pico:{kind}"), cache)
    tokenizer = find_checkpoint(ModelConfig("t5", "pico:t5"), cache).tokenizer()
    start: dict[str, Any] = {"decoder_start_token_id": 0}
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="relu",
        **start,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5_tied")
    tokenizer.save_pretrained(folder / "t5_tied")
    return find_checkpoint(ModelConfig("t5_tied", str(folder / "t5_tied")), cache)


@pytest.fixture
def draw(tmp_path: Path, pico_cache: Path, write_emotions: Callable[[Path], Path]) -> Callable[[str], Members]:
    """Makes two members of a kind of model."""

    def make(kind: str) -> Members:
        checkpoint = checkpoint_of(kind, tmp_path, pico_cache)
        suite = EmotionTextSuite(write_emotions(tmp_path), EmotionTextSettings(out_of_domain=["emoint"]))
        tokenizer = checkpoint.tokenizer()
        data = CorpusDataModule(suite, tokenizer, batch_size=16, eval_batch_size=16, max_length=48, seed=0)
        task = suite.task("tec")

        def write(seed: int, folder: Path) -> dict[str, str]:
            torch.manual_seed(seed)
            model = TextGenerationModule.new_model(checkpoint, task)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
            TextGenerationModule(model, task).save(folder)
            tokenizer.save_pretrained(folder)
            return {}

        zoo = Zoo(tmp_path / "zoo")
        sources = []
        for seed, corpus in enumerate(("tec", "isear")):
            entry, _ = zoo.find_or_train({"corpus": corpus}, corpus, partial(write, seed))
            load = partial(load_module, entry.path, task)
            batches = partial(data.statistics_dataloader, corpus)
            sources.append(MemberSource(corpus, entry, suite.fingerprint(corpus), None, load, batches))
        return Members(sources, checkpoint)

    return make


@pytest.mark.parametrize(
    ("kind", "method"),
    [("t5_tied", method) for method in (Simple(), Fisher(), RegMean(), TaskArithmetic(), Mats(iterations=3))]
    # The others by what is solved layer by layer, and depends on how the layers are written.
    + [("t5", RegMean()), ("gpt2", RegMean()), ("gpt2", Mats(iterations=3))],
    ids=lambda part: getattr(part, "name", part),
)
def test_merged_models_are_saved_and_loaded_as_they_were_tested(
    kind: str, method: MergeMethod, draw: Callable[[str], Members], tmp_path: Path
) -> None:
    members = draw(kind)
    module, logits = members.merge(method)
    model: Any = module.model
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (kind in TIED)
    write_merged_model(model, members.checkpoint.tokenizer(), "", tmp_path / "merged")
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert ("lm_head.weight" in stored) == (kind not in TIED)
    loaded = load_module(tmp_path / "merged", module.task)
    again: Any = loaded.model
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == (kind in TIED)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    with torch.no_grad():
        batches = members.sources[0].batches(20, 8, 0)
        torch.testing.assert_close(logits[0], torch.cat([loaded(batch) for batch in batches]))


@pytest.mark.parametrize("kind", TIED)
def test_a_tied_weight_is_averaged_and_not_solved_for(kind: str, draw: Callable[[str], Members]) -> None:
    members = draw(kind)
    embedding, output = TIED[kind]
    first, second = members.weights()
    assert embedding in first
    assert output not in first
    module, _ = members.merge(RegMean())
    torch.testing.assert_close(module.model.get_parameter(embedding), (first[embedding] + second[embedding]) / 2)
    assert not {embedding, output} & set(layout_of(module.model).linear)


def test_an_output_layer_of_its_own_is_solved_for(draw: Callable[[str], Members]) -> None:
    members = draw("t5")
    module, _ = members.merge(RegMean(off_diagonal=1.0))
    first, second = (weights["lm_head.weight"].double() for weights in members.weights())
    one, other = (gram.matrix("lm_head").double() for gram in members.grams())
    expected = torch.linalg.solve(one + other, one @ first.T + other @ second.T).T
    merged = module.model.get_parameter("lm_head.weight").double()
    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-3)
    assert (merged - (first + second) / 2).abs().max() > 0.05


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("t5", "encoder.block.0.layer.0.SelfAttention.q"),
        ("t5", "decoder.block.1.layer.2.DenseReluDense.wo"),
        ("t5", "lm_head"),
        ("gpt2", "transformer.h.0.attn.c_attn"),
    ],
)
def test_gradients_at_outputs_are_those_of_the_answers(kind: str, layer: str, draw: Callable[[str], Members]) -> None:
    """Σ over both answers of p (∂ log p / ∂ output)ᵀ(…), one question at a time: no padding, no batches."""
    members = draw(kind)
    members.merge(Mats(iterations=1))
    source = members.sources[0]
    module = source.load()
    outputs: list[Tensor] = []
    module.model.get_submodule(layer).register_forward_hook(lambda _, arguments, output: outputs.append(output))
    total, size = 0.0, 0.0
    for batch in source.batches(10, 1, 0):
        outputs.clear()
        (logits,) = module(batch)
        for probability, score in zip(logits.softmax(0).tolist(), logits.log_softmax(0), strict=True):
            for gradient in torch.autograd.grad(score, outputs, retain_graph=True, allow_unused=True):
                if gradient is not None:
                    rows = gradient.reshape(-1, gradient.shape[-1]).double()
                    total = total + probability * rows.T @ rows
    assert isinstance(total, Tensor)
    found = open_statistics(source.entry, REQUESTS[2], source.data_fingerprint)
    matrix = found.read(layer).double() * found.metadata["rows"][layer]
    size = float(total.norm())
    assert size > 1e-6
    torch.testing.assert_close(matrix / size, total / size, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layer", ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"])
def test_layers_of_gpt2_are_merged_transposed(layer: str, draw: Callable[[str], Members]) -> None:
    """Their weights are stored as [in, out]."""
    members = draw("gpt2")
    module, _ = members.merge(RegMean(off_diagonal=1.0))
    first, second = (weights[f"{layer}.weight"].double() for weights in members.weights())
    one, other = (gram.matrix(layer).double() for gram in members.grams())
    assert first.shape[0] == one.shape[0] != first.shape[1]
    merged = module.model.get_parameter(f"{layer}.weight").double()
    expected = torch.linalg.solve(one + other, one @ first + other @ second)
    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-3)
    assert (merged - (first + second) / 2).abs().max() > 0.05


def test_heads_are_output_layers_with_weights_of_their_own(tmp_path: Path, pico_cache: Path) -> None:
    heads = {}
    for kind in KINDS:
        checkpoint = checkpoint_of(kind, tmp_path, pico_cache)
        heads[kind] = head_parameters(checkpoint.load(generation_class(checkpoint.config())))
    assert heads == {"t5": ["lm_head.weight"], "t5_tied": [], "gpt2": []}

"""Statistics of a checkpoint that is read one block at a time are those of the whole model."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints.collect_command import RECORD_FILE, check, run
from regmean_lab.checkpoints.publishing import block_choice
from regmean_lab.checkpoints.publishing import blocks as module
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import ModelError, quiet_transformers
from regmean_lab.statistics import GramFile, StatisticsError
from regmean_lab.tracking import environment

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]
KINDS = ("bert", "gpt2", "llama", "mixtral", "t5")
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(4, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def folders(pico_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with their tokenizers, decoders in bfloat16 and in several files."""
    made = {}
    for kind in KINDS:
        source = pico_folder(kind if kind in ("bert", "t5") else "gpt2", pico_cache)
        folder, tokenizer = tmp_path_factory.mktemp(kind), AutoTokenizer.from_pretrained(source)
        sizes = {**SIZES, "vocab_size": len(tokenizer), "eos_token_id": 0, "bos_token_id": 0}
        torch.manual_seed(0)
        model: PreTrainedModel
        with quiet_transformers():
            if kind == "bert":
                model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
            elif kind == "t5":
                model = T5ForConditionalGeneration.from_pretrained(source)
            elif kind == "gpt2":
                model = GPT2LMHeadModel.from_pretrained(source).bfloat16()
            elif kind == "llama":
                model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)).bfloat16()
            else:
                model = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4)).bfloat16()
            model.save_pretrained(folder, max_shard_size="20kB" if kind in ("llama", "mixtral") else "5GB")
        tokenizer.save_pretrained(folder)
        made[kind] = folder
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    rows = [{"text": one, "summary": two} for one, two in zip(sentences(60), sentences(60, 1), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


Collect = Callable[..., GramFile]


@pytest.fixture
def collect(compose: Callable[..., DictConfig], data: Path, tmp_path: Path) -> Collect:
    """Collects statistics of a folder, and checks that nothing but them is left."""

    def collected(folder: Path, name: str, *overrides: str) -> GramFile:
        output = tmp_path / name
        shared = [f"checkpoint={folder}", f"data={data}", f"output={output}", "card=false", "allow_few_rows=true"]
        run(compose(*shared, *overrides), tmp_path / "job")
        assert [path.name for path in (tmp_path / "job").iterdir()] == [RECORD_FILE]
        assert sorted(path.name for path in (output / "statistics").iterdir()) == ["README.md", "gram.safetensors"]
        return GramFile(output / "statistics" / "gram.safetensors")

    return collected


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_that_of_the_whole_model(folders: dict[str, Path], collect: Collect, kind: str) -> None:
    whole = collect(folders[kind], "whole", "blocks=false")
    parts = collect(folders[kind], "parts", "blocks=true", "held_activations=2kB")
    assert parts.layers == whole.layers
    assert parts.unseen == whole.unseen
    for layer in whole.shared:
        torch.testing.assert_close(parts.matrix(layer), whole.matrix(layer), rtol=1e-5, atol=1e-6)
        assert parts.rows[parts.shared[layer]] == whole.rows[whole.shared[layer]]
    told, expected = dict(parts.metadata), dict(whole.metadata)
    if kind == "t5":  # whose cross-attentions have copies of one matrix
        for metadata in (told, expected):
            for key in ("shared", "rows", "collected"):
                del metadata[key]
    assert told == expected


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("trainer.precision=bf16-mixed", 0), ("statistics.gram.precision=bf16", 0), ("trainer.precision=bf16-true", 0.05)],
)
def test_precisions_are_those_of_the_whole_model(
    folders: dict[str, Path], collect: Collect, precision: str, tolerance: float
) -> None:
    """In bfloat16 alone, the whole model rounds the frequencies of its positions too."""
    exact = collect(folders["llama"], "exact", "blocks=true")
    whole = collect(folders["llama"], "whole", "blocks=false", precision)
    parts = collect(folders["llama"], "parts", "blocks=true", precision)
    layer = "model.layers.1.mlp.down_proj"
    scale = float(exact.matrix(layer).abs().max())
    torch.testing.assert_close(parts.matrix(layer), whole.matrix(layer), rtol=1e-5, atol=(tolerance or 1e-6) * scale)
    assert 1e-5 < float((parts.matrix(layer) - exact.matrix(layer)).abs().max()) / scale < 0.05


@pytest.mark.parametrize("form", ["full", "low_rank"])
def test_forms_and_layers_are_those_of_the_whole_model(folders: dict[str, Path], collect: Collect, form: str) -> None:
    chosen = [f"form={form}", "exclude_layers=[lm_head,*.mlp.*]", *(["rank=2"] if form == "low_rank" else [])]
    whole = collect(folders["llama"], "whole", "blocks=false", *chosen)
    parts = collect(folders["llama"], "parts", "blocks=true", *chosen)
    assert parts.metadata == whole.metadata
    for layer in whole.layers:
        torch.testing.assert_close(parts.matrix(layer), whole.matrix(layer), rtol=1e-4, atol=1e-5)


def test_what_is_there_is_found_however_it_was_collected(
    folders: dict[str, Path], collect: Collect, tmp_path: Path
) -> None:
    for overrides, done in ((["blocks=true"], "collected"), (["blocks=false"], "found"), (["blocks=true"], "found")):
        collect(folders["llama"], "same", *overrides)
        assert json.loads((tmp_path / "job" / RECORD_FILE).read_text())["done"] == {"gram": done}


def test_a_model_without_room_is_collected_block_by_block(
    folders: dict[str, Path], collect: Collect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[str] = []
    whole, parts = "publishing.collect.measure", "publishing.collect.write_by_blocks"
    for name in (whole, parts):
        path = f"regmean_lab.checkpoints.{name}"

        def called(*arguments: Any, name: str = name) -> None:
            used.append(name)
            raise StatisticsError("stop")

        monkeypatch.setattr(path, called)
    for free, expected in ((10**9, whole), (10_000, parts), (None, whole)):
        monkeypatch.setattr(block_choice, "available_memory_bytes", lambda device, free=free: free)
        with pytest.raises(StatisticsError, match="stop"):
            collect(folders["llama"], "auto")
        assert used.pop() == expected
    with caplog.at_level("INFO"), pytest.raises(StatisticsError, match="stop"):
        monkeypatch.setattr(block_choice, "available_memory_bytes", lambda device: 10_000)
        collect(folders["llama"], "auto")
    assert "10 kB are free (cpu): collected block by block" in caplog.text
    with pytest.raises(StatisticsError, match="stop"):
        collect(folders["gpt2"], "auto", "kinds=[gram,fisher]", "statistics.fisher.labels_from=pseudo")
    assert used.pop() == whole  # other kinds need all of the model


def test_sizes_are_told_from_headers_alone(folders: dict[str, Path]) -> None:
    tensors = stored_tensors(folders["llama"])
    model = LlamaForCausalLM.from_pretrained(folders["llama"])
    weights, sums = block_choice.whole_model_bytes(tensors)
    assert weights == 4 * sum(parameter.numel() for parameter in model.parameters())
    layer = 6 * 16**2 + 24**2
    assert sums == 4 * (2 * layer + 16**2)  # the table of tokens is taken for a layer, as the output layer is it


def test_too_few_rows_are_refused_before_a_pass_and_after_a_block(
    folders: dict[str, Path], compose: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "few.txt"
    few.write_text("the river\nhappy people\n", encoding="utf-8")
    shared = ["blocks=true", "card=false", f"output={tmp_path / 'out'}"]
    with monkeypatch.context() as context:
        context.setattr("regmean_lab.checkpoints.publishing.collect.write_by_blocks", None)
        with pytest.raises(StatisticsError, match=r"nothing was measured(.|\n)*down_proj: at most \d+ rows for 24 col"):
            run(compose(f"checkpoint={folders['llama']}", f"data={few}", *shared), tmp_path / "job")
    data = tmp_path / "enough.txt"
    data.write_text("\n".join(sentences(20)), encoding="utf-8")
    with pytest.raises(StatisticsError, match=r"nothing was written(.|\n)*pooler.dense: 20 rows for 16 columns"):
        run(compose(f"checkpoint={folders['bert']}", f"data={data}", *shared), tmp_path / "job")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "job").iterdir()) == []


def test_what_cannot_be_collected_so_is_refused_before_any_work(
    folders: dict[str, Path], compose: Callable[..., DictConfig], data: Path
) -> None:
    shared = [f"checkpoint={folders['gpt2']}", f"data={data}"]
    with pytest.raises(ConfigurationError) as error:
        check(compose(*shared, "blocks=true", "kinds=[gram,fisher]", "statistics.gram.tolerance=0.1"))
    assert "blocks: fisher cannot be collected block by block, as gradients go through all" in str(error.value)
    assert "blocks: with statistics.gram.tolerance all layers are compared" in str(error.value)
    with pytest.raises(ConfigurationError) as error:
        check(compose(*shared, "blocks=some", "held_activations=much"))
    assert "blocks: expected one of auto, true, false, got 'some'" in str(error.value)
    assert "held_activations: expected a size such as 5GB" in str(error.value)


def test_weights_that_change_while_they_are_read_are_noticed(
    folders: dict[str, Path], collect: Collect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["bert"], folder)
    measure = module.write_by_blocks

    def changing(*arguments: Any) -> module.WrittenMatrices:
        written = measure(*arguments)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes())
        os.utime(weights, ns=(1, 1))
        return written

    monkeypatch.setattr("regmean_lab.checkpoints.publishing.collect.write_by_blocks", changing)
    with pytest.raises(StatisticsError, match=r"model\.safetensors: changed while it was read, so that the stat"):
        collect(folder, "changed", "blocks=true")
    assert not list((tmp_path / "changed").rglob("*.safetensors"))


def test_free_memory_is_that_of_the_machine_within_the_groups_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = environment.available_memory_bytes(torch.device("cpu"))
    if not Path("/proc/meminfo").exists():
        assert free is None
        return
    assert free is not None and 0 < free < 2**50
    (tmp_path / "max").write_text("3000\n")
    (tmp_path / "used").write_text("1000\n")
    group = (str(tmp_path / "max"), str(tmp_path / "used"))
    monkeypatch.setattr(environment, "CGROUP_MEMORY", (("/none", "/none"), group))
    assert environment.available_memory_bytes(torch.device("cpu")) == 2000
    (tmp_path / "max").write_text("max\n")
    assert environment.available_memory_bytes(torch.device("cpu")) != 2000


def test_a_checkpoint_that_lacks_weights_is_refused(folders: dict[str, Path], collect: Collect) -> None:
    with pytest.raises(ModelError, match=r"lacks weights of GPT2ForTokenClassification \(classifier"):
        collect(folders["gpt2"], "other", "blocks=true", "task=token_classification")

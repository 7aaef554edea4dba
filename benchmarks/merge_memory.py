"""Merging folders that are larger than memory: how much of it a merge takes, and how long."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.figure import Figure, Setting
from benchmarks.measure import interleaved, ratio
from regmean_lab.checkpoints.writing import PlannedTensor, plan_shards, write_shards
from regmean_lab.statistics import GramStatistics, save_gram
from regmean_lab.utils.cache import CACHE_VARIABLE

METHODS = ("simple", "task_arithmetic")
MANY_METHODS = (
    *(*METHODS, "ties", "dare", "della", "breadcrumbs", "sce", "karcher", "multislerp", "model_stock"),
    "regmean",
)
LAYERS = 22
FULL_WIDTH, FULL_VOCABULARY, FULL_PARAMETERS = 2048, 32000, 1.1e9
FEW, MANY = 2, 16
MANY_PARAMETERS = 50_000_000
"""Most parameters of the model of which many are merged."""
MEMORY_ROUNDS = 2
"""Peak memory hardly differs between rounds."""
PICO_PARAMETERS = 200_000
NOISE = 1 << 22
PIECE = 1 << 24


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family."""
    parameters = PICO_PARAMETERS if setting.pico else setting.merge_parameters
    found = []
    with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
        found += _large(Path(folder), parameters, setting)
    with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
        found += _many(Path(folder), min(parameters, MANY_PARAMETERS), setting)
    return found


def _large(folder: Path, parameters: int, setting: Setting) -> list[Figure]:
    """Two checkpoints and their base: memory in units of a checkpoint, and time in units of copying the bytes."""
    config = decoder_config(parameters)
    folders = [write_decoder(folder / name, config, seed) for seed, name in enumerate(("base", "one", "two"))]
    run_merge("task_arithmetic", folder / "merged", folders[0], folders[1:])  # their structure is known from here on
    size = sum(path.stat().st_size for path in folders[0].glob("*.safetensors"))
    name = f"{size / 2e9:.3f} billion parameters, bfloat16"
    found = []
    for method in METHODS:
        runs: list[dict[str, float]] = []
        read = folders if method == "task_arithmetic" else folders[1:]

        def merge(method: str = method, runs: list[dict[str, float]] = runs) -> None:
            runs.append(run_merge(method, folder / "merged", folders[0], folders[1:]))

        def copy(read: Sequence[Path] = read) -> None:
            copy_bytes(read, folder / "copy")

        copies = interleaved({"merge": merge, "copy": copy}, setting.repeats, torch.device("cpu"))["copy"]
        above = [run["peak"] - run["before"] for run in runs]
        shares = [one / size for one in above]
        note = f"{median(above) / 1e6:.0f} MB above {median(run['before'] for run in runs) / 1e6:.0f} MB at the start"
        title = f"{method} of 2, {name}"
        found.append(
            Figure(
                f"{title}: memory / one checkpoint",
                median(shares),
                min(shares),
                max(shares),
                note=f"{note}; a checkpoint has {size / 1e6:.0f} MB",
            )
        )
        seconds = [run["seconds"] for run in runs]
        what = "reading the same files and writing one, without hashing"
        found.append(ratio(f"{title}: time / copying", seconds, copies, note=what))
    return found


def _many(folder: Path, parameters: int, setting: Setting) -> list[Figure]:
    """Peak memory for many members against few."""
    config = decoder_config(parameters)
    folders = [write_decoder(folder / name, config, seed) for seed, name in enumerate(("base", "one"))]
    statistics = write_statistics(folders[1])
    for number in range(MANY - 1):  # other folders, the same bytes on the disk
        copied = folder / f"member{number}"
        (copied / statistics.parent.name).mkdir(parents=True)
        for path in (statistics, *folders[1].glob("*.*")):
            os.link(path, copied / path.relative_to(folders[1]))
        folders.append(copied)
    size = sum(path.stat().st_size for path in folders[0].glob("*.safetensors"))
    found = []
    run_merge("task_arithmetic", folder / "merged", folders[0], folders[1:3])  # as above
    for method in MANY_METHODS:
        ratios, notes = [], []
        for _ in range(min(setting.repeats, MEMORY_ROUNDS)):
            few, many = (
                run_merge(method, folder / "merged", folders[0], folders[1 : count + 1]) for count in (FEW, MANY)
            )
            ratios.append(many["peak"] / few["peak"])
            notes.append(tuple((run["peak"] - run["before"]) / 1e6 for run in (many, few)))
        above = [median(column) for column in zip(*notes, strict=True)]
        found.append(
            Figure(
                f"{method}, {size / 2e6:.1f} million parameters: peak memory of {MANY} members / of {FEW}",
                median(ratios),
                min(ratios),
                max(ratios),
                1.10,
                note=f"above the start: {above[0]:.0f} MB / {above[1]:.0f} MB; a checkpoint has {size / 1e6:.0f} MB",
            )
        )
    return found


def run_merge(method: str, output: Path, base: Path, checkpoints: Sequence[Path]) -> dict[str, float]:
    """Merge in a process of its own; seconds, and bytes of memory before and at most.

    Structures of architectures are kept beside the output, so that all merges but the first find them there.
    """
    shutil.rmtree(output, ignore_errors=True)
    arguments = [method, str(output), str(base), *map(str, checkpoints)]
    command = [sys.executable, "-m", "benchmarks.merge_process", *arguments]
    environment = {**os.environ, CACHE_VARIABLE: str(output.parent / "kept")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    shutil.rmtree(output)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def copy_bytes(folders: Sequence[Path], target: Path) -> None:
    """Read all files of weights and write the last folder's again, piece by piece."""
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as source, target.open("wb") as copied:
                while piece := source.read(PIECE):
                    if folder is folders[-1]:
                        copied.write(piece)
    target.unlink()


def decoder_config(parameters: int) -> LlamaConfig:
    """A decoder of about so many parameters: the proportions of one with 1.1 billion."""
    heads = max(1, round(FULL_WIDTH / 64 * (parameters / FULL_PARAMETERS) ** 0.5))
    width = 64 * heads
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        num_key_value_heads=heads if heads % 8 else heads // 8,
        vocab_size=FULL_VOCABULARY * width // FULL_WIDTH,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def write_decoder(folder: Path, config: LlamaConfig, seed: int) -> Path:
    """A checkpoint with random weights, bfloat16, a tensor in memory at a time."""
    folder.mkdir()
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in LlamaForCausalLM(config).state_dict().items()}
    shards = plan_shards([PlannedTensor(name, torch.bfloat16, shape) for name, shape in shapes.items()], 5 * 10**9)
    write_shards(folder, shards, _random(shards, torch.Generator().manual_seed(seed)))
    return folder


def write_statistics(folder: Path) -> Path:
    """Gram matrices beside a decoder: of random rows, as many as columns, and one matrix for all layers of a width."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder))
    widths = {name: part.in_features for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    generator = torch.Generator().manual_seed(0)
    leaders = {width: name for name, width in widths.items()}
    matrices = {}
    for width, name in leaders.items():
        rows = torch.randn(width, width, generator=generator)
        matrices[name] = rows.T @ rows / width
    shared = {name: leaders[width] for name, width in widths.items()}
    rows_of = {name: width for width, name in leaders.items()}
    statistics = GramStatistics(matrices, shared, rows_of, examples=1, batches=1)
    path = folder / "statistics" / "gram.safetensors"
    save_gram(path, statistics, {"settings": {}, "data_fingerprint": ""})
    return path


def _random(shards: Sequence[Any], generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    noise = (0.02 * torch.randn(NOISE, generator=generator)).bfloat16()
    for shard in shards:
        for tensor in shard.tensors:
            count = tensor.size // 2
            yield tensor.name, noise.repeat(-(-count // NOISE))[:count].view(tensor.shape)

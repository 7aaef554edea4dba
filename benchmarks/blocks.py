"""Gram matrices of a decoder collected block by block: how much memory they take, and how long.

``python -m benchmarks blocks --merge-parameters 1100000000 --scratch FOLDER`` generates a decoder of that size.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.figure import Figure, Setting
from benchmarks.merge_memory import MEMORY_ROUNDS, PICO_PARAMETERS, decoder_config, write_decoder
from regmean_lab.checkpoints.publishing.block_choice import whole_model_bytes
from regmean_lab.models.folders import stored_tensors
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pico_models import TEXT

EXAMPLES, TOKENS = 16, 128
"""How many texts are read, and how many tokens of each."""

WHOLE_BYTES = 2 * 10**9
"""Most bytes of weights and matrices of a model that is collected whole as well, to compare."""


def figures(setting: Setting) -> list[Figure]:
    """All figures of the family."""
    parameters = PICO_PARAMETERS if setting.pico else setting.merge_parameters
    with tempfile.TemporaryDirectory(dir=setting.scratch) as scratch:
        folder = write_decoder(Path(scratch) / "decoder", decoder_config(parameters), 0)
        shutil.copytree(pico_folder("gpt2", Path(scratch) / "pico"), folder, dirs_exist_ok=True, ignore=_not_tokenizer)
        data = write_texts(Path(scratch) / "texts.jsonl")
        weights, sums = whole_model_bytes(stored_tensors(folder))
        compared = ["true", *(["false"] if weights + sums <= WHOLE_BYTES else [])]
        runs: dict[str, list[dict[str, float]]] = {choice: [] for choice in compared}
        for number in range(min(setting.repeats, MEMORY_ROUNDS)):
            for choice in compared if number % 2 == 0 else compared[::-1]:
                runs[choice].append(collect(folder, data, Path(scratch) / "out", choice, setting.device.type))
    title = f"{weights / 4e9:.3f} billion parameters, bfloat16, {EXAMPLES} × {TOKENS} tokens"
    above = [run["peak"] - run["before"] for run in runs["true"]]
    peak = median(run["peak"] for run in runs["true"])
    found = [
        Figure(
            f"block by block, {title}: memory above the start / weights and matrices of the whole model",
            *_spread([one / (weights + sums) for one in above]),
            note=f"peak {peak / 1e6:.0f} MB, {median(above) / 1e6:.0f} MB of them above the start; weights in float32 "
            f"and matrices take up to {(weights + sums) / 1e6:.0f} MB, the checkpoint {weights / 2e6:.0f} MB; "
            f"{median(run['processor'] for run in runs['true']):.0f} s of the processor, "
            f"{median(run['seconds'] for run in runs['true']):.0f} s in all",
        )
    ]
    if "false" in runs:
        pairs = list(zip(runs["true"], runs["false"], strict=True))
        for what, name, unit, size in (
            ("peak", "peak memory", "MB", 1e6),
            ("processor", "time of the processor", "s", 1),
        ):
            behind = " / ".join(f"{median(run[what] for run in runs[choice]) / size:.0f} {unit}" for choice in compared)
            found.append(
                Figure(
                    f"block by block, {title}: {name} / that of the whole model at once",
                    *_spread([one[what] / other[what] for one, other in pairs]),
                    note=behind,
                )
            )
    return found


def collect(folder: Path, data: Path, output: Path, choice: str, device: str) -> dict[str, float]:
    """Collect in a process of its own; seconds in all and of the processor, and bytes of memory before and at most."""
    shutil.rmtree(output, ignore_errors=True)
    overrides = [
        *(f"checkpoint={folder}", f"data={data}", f"output={output}", f"paths.output_dir={output / 'job'}"),
        *(f"blocks={choice}", f"max_length={TOKENS + 1}", "allow_few_rows=true", "card=false"),
        *(f"trainer.accelerator={'gpu' if device == 'cuda' else device}", "trainer.progress_bar=false"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.collect_process", *overrides], check=True, capture_output=True, text=True
    )
    shutil.rmtree(output)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def write_texts(path: Path) -> Path:
    """Texts of more than enough tokens, of the words that pico tokenizers know."""
    generator, words = random.Random(0), TEXT.split()
    rows = [{"text": " ".join(generator.choices(words, k=2 * TOKENS))} for _ in range(EXAMPLES)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _spread(ratios: list[float]) -> tuple[float, float, float]:
    return median(ratios), min(ratios), max(ratios)


def _not_tokenizer(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith(("tokenizer", "vocab", "merges", "special_tokens"))]

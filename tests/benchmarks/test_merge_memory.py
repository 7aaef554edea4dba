"""What the benchmark of a merge's memory is made of."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks import merge_memory, merge_process


@pytest.mark.parametrize("parameters", [1.1e9, 5e7])
def test_a_decoder_has_about_the_parameters_asked_for(parameters: float) -> None:
    with torch.device("meta"):
        model = merge_memory.LlamaForCausalLM(merge_memory.decoder_config(int(parameters)))
    assert sum(part.numel() for part in model.parameters()) == pytest.approx(parameters, rel=0.3)


def test_memory_that_was_given_back_counts_and_that_of_other_processes_does_not() -> None:
    """200 MB are this process's all the while, 100 MB the other one's for a moment."""
    ours = b"x" * 200_000_000
    program = (  # without the imports of a merge, which take seconds
        "import resource, sys\nfrom pathlib import Path\n"
        f"{inspect.getsource(merge_process.peak_bytes)}\n"
        "before = peak_bytes(); theirs = b'x' * 100_000_000; del theirs\n"
        "print(before, peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    before, above = map(int, done.stdout.split())
    assert above == pytest.approx(100e6, abs=5e6)
    assert before + len(ours) / 2 < merge_process.peak_bytes()


def test_a_merge_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = merge_memory.decoder_config(merge_memory.PICO_PARAMETERS)
    folders = [merge_memory.write_decoder(tmp_path / name, config, seed) for seed, name in enumerate("abc")]
    monkeypatch.setattr(sys, "argv", ["x", "simple", str(tmp_path / "out"), *map(str, folders)])
    merge_process.main()
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["seconds"] > 0
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "out", *folders[1:])]
    name = "model.layers.3.mlp.up_proj.weight"
    assert torch.equal(weights[0][name], torch.lerp(*(part[name].float() for part in weights[1:]), 0.5).bfloat16())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == merge_memory.LAYERS

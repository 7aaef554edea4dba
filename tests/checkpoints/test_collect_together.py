"""Statistics of one model that several processes collect together are those of one process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from regmean_lab.checkpoints.collect_command import run
from regmean_lab.statistics import GramFile, StatisticsError

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]


def write_texts(path: Path, count: int) -> Path:
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(4, 9))) for _ in range(count)]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_two_processes_collect_what_one_does(
    compose: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [f"data={write_texts(tmp_path / 'texts.txt', 60)}", "statistics.batch_tokens=64", "card=false"]
    for devices in (1, 2):
        output = tmp_path / f"with{devices}"
        run(
            compose("checkpoint=pico:gpt2", *shared, f"output={output}", f"trainer.devices={devices}"), tmp_path / "job"
        )
    one, two = (GramFile(tmp_path / f"with{devices}" / "statistics" / "gram.safetensors") for devices in (1, 2))
    assert two.batches > 2
    assert two.metadata == one.metadata
    for layer in one.layers:
        torch.testing.assert_close(two.matrix(layer), one.matrix(layer), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("regmean_lab.checkpoints.publishing.collect._foreseen", lambda *arguments: [])
    few = [f"data={write_texts(tmp_path / 'few.txt', 20)}", *shared[1:], f"output={tmp_path / 'few'}"]
    with pytest.raises(StatisticsError, match="nothing was written"):  # told by the process that finds it out
        run(compose("checkpoint=pico:bert", "task=encoder", *few, "trainer.devices=2"), tmp_path / "job")
    assert not list((tmp_path / "few").rglob("*.safetensors"))

"""The benchmark of collecting block by block measures what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import blocks, collect_process
from benchmarks.figure import Setting


def test_figures_compare_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def collect(folder: Path, data: Path, output: Path, choice: str, device: str) -> dict[str, float]:
        assert (folder / "tokenizer.json").is_file()
        asked.append((choice, len(data.read_text().splitlines())))
        processor, peak = (3.0, 3e6) if choice == "true" else (2.0, 6e6)
        return {"seconds": 9.0, "processor": processor, "before": 1e6, "peak": peak}

    monkeypatch.setattr(blocks, "collect", collect)
    above, peak, seconds = blocks.figures(Setting(torch.device("cpu"), repeats=2, pico=True))
    assert asked == [(choice, blocks.EXAMPLES) for choice in ("true", "false", "false", "true")]
    assert (peak.value, seconds.value) == (0.5, 1.5)
    assert above.value * float(above.note.split("take up to ")[1].split(" MB")[0]) == pytest.approx(2, rel=0.2)
    monkeypatch.setattr(blocks, "WHOLE_BYTES", 0)
    assert len(blocks.figures(Setting(torch.device("cpu"), repeats=1, pico=True))) == 1


def test_a_collection_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Done:
        given["command"] = command
        (tmp_path / "out").mkdir()
        return Done()

    monkeypatch.setattr(blocks.subprocess, "run", run)
    assert blocks.collect(Path("model"), Path("texts"), tmp_path / "out", "true", "cpu") == {"seconds": 1.0}
    assert "blocks=true" in given["command"]
    monkeypatch.setattr(collect_process.command, "main", lambda: print(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["x", "checkpoint=a"])
    collect_process.main()
    told, measured = capsys.readouterr().out.splitlines()
    assert told == "['collect', 'checkpoint=a']"
    assert json.loads(measured)["peak"] >= json.loads(measured)["before"] > 0


class Done:
    stdout = '\n{"seconds": 1.0}'

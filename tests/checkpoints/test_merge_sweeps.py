"""Merges of one command: a line for each, and one table of all."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest
from checkpoint_folders import LABELS, save_classifier

from regmean_lab.__main__ import main
from regmean_lab.results import read_result


@pytest.fixture
def root(tmp_path: Path, pico_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        save_classifier(tmp_path / name, pico_cache, seed)
    with (tmp_path / "test.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "label"))
        rows.writerows((f"the film number {number}", LABELS[number % 3]) for number in range(30))
    return tmp_path


def merge(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    given = ["trainer=cpu", "trainer.progress_bar=false", "paths.output_dir=outputs"]
    if not any(argument.startswith("checkpoints=") for argument in arguments):
        given.append("checkpoints=[a,b]")
    monkeypatch.setattr(sys, "argv", ["regmean-lab", "merge", *given, *arguments, "-m"])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


def table(root: Path) -> dict[str, dict[str, str]]:
    """The cells of the table of the last sweep, by row and heading."""
    path = sorted(root.glob("outputs/sweeps/*/table.md"))[-1]
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    heads, _, *rows = ([cell.strip(" *") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def test_all_merges_stand_in_one_table(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = ("method=simple,ties", "base=c", "evaluate=test.csv", "method.coefficients=null,[0.2,0.8]")
    assert merge(monkeypatch, *chosen) == 0
    shown = capfd.readouterr()
    assert shown.out.count("mean in domain") == 1  # of all jobs together
    found = table(root)
    merges = {"simple coefficients=none", "simple coefficients=\\[0.2,0.8\\]"}
    merges |= {name.replace("simple", "ties") for name in merges}
    assert set(found) == {"a", "b", "ensemble", *merges}
    for name in merges:
        written = Path(found[name]["written to"])
        result = read_result(written.with_name("merged-evaluation") / "merged" / "result.json")
        assert found[name]["test"] == f"{result.scores['in_domain']['test']:.2f}"
        size = sum(path.stat().st_size for path in written.iterdir())
        assert found[name]["size"] == f"{size / 1000:.3g} kB"
        assert re.fullmatch(r"\d+\.\d s", found[name]["time"])
        assert str(written) in shown.out
    assert found["a"]["written to"] == ""
    lines = [line for line in (shown.out + shown.err).splitlines() if re.search(r"- #\d \w+: \d", line)]
    assert len(lines) == 4 and all("written to" in line for line in lines)


def test_checkpoints_of_one_name_are_told_apart(root: Path, pico_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scores are no mean of each other."""
    save_classifier(root / "other" / "a", pico_cache, 7)
    assert merge(monkeypatch, "method=simple", "evaluate=test.csv", "checkpoints=[a,b],[other/a,b]") == 0
    found = table(root)
    scores = {}
    for path in root.glob("outputs/merge_checkpoints/*/merged-evaluation/a/result.json"):
        result = read_result(path)
        scores[result.configuration["method"]["weights"]] = f"{result.mean_in_domain:.2f}"
    assert len(scores) == 2
    shown = {name.removeprefix("a weights="): row["test"] for name, row in found.items() if name.startswith("a ")}
    assert shown == scores
    assert {"simple checkpoints=\\[a,b\\]", "simple checkpoints=\\[other/a,b\\]", "b"} <= set(found)
    assert sum(name.startswith("ensemble weights=") for name in found) == 2


def test_what_is_not_scored_has_no_scores(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert merge(monkeypatch, "method=simple", "dtype=float32,float16") == 0
    found = table(root)
    assert set(found) == {"simple dtype=float32", "simple dtype=float16"}
    assert list(found["simple dtype=float16"]) == ["method", "size", "time", "written to"]


def test_what_failed_is_told_below(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Weights beyond the range of the dtype are found while they are merged."""
    from safetensors.torch import load_file, save_file

    state = load_file(root / "a" / "model.safetensors")
    state["classifier.bias"][0] = 1e6
    save_file(state, root / "a" / "model.safetensors", metadata={"format": "pt"})
    assert merge(monkeypatch, "method=simple", "dtype=float32,float16") == 1
    assert set(table(root)) == {"simple"}
    shown = capfd.readouterr().err
    assert "FAILED: " in shown and "dtype=float16" in shown
    assert "1 of 2 jobs failed; other results are kept." in shown

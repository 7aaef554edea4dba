"""Every figure's code runs, and the page tells what was measured."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import command, families, gram, merge
from benchmarks.figure import Figure, Setting
from benchmarks.measure import interleaved, ratio
from benchmarks.report import read_sections, table

SETTING = Setting(torch.device("cpu"), repeats=2, sentences=24, pico=True)


WHOLE_PROCESSES = ("blocks", "demo", "jobs", "merge-memory", "scores", "peers", "start")
"""Families that start processes: too long for a test."""


@pytest.mark.parametrize("family", [family for family in families.FAMILIES if family not in WHOLE_PROCESSES])
def test_a_family_is_measured(family: str) -> None:
    figures = families.FAMILIES[family](SETTING)
    assert len({figure.name for figure in figures}) == len(figures) > 0
    for figure in figures:
        if math.isnan(figure.value):
            assert figure.met is None
            accelerate = importlib.util.find_spec("accelerate") is not None
            assert (family == "training" and not accelerate) or (family == "gram" and not gram.has_bfloat16())
            assert figure.note.startswith("not measured: ")
        else:
            assert 0 < figure.low <= figure.value <= figure.high < math.inf


def test_the_merge_of_a_gpu_is_measured_on_any_device() -> None:
    (figure,) = merge.gpu_figures(SETTING)
    assert figure.goal == 1
    assert 0 < figure.low <= figure.value <= figure.high


def test_the_figures_of_a_gpu_are_measured_on_any_device() -> None:
    before = torch.get_float32_matmul_precision()
    figures = gram.gpu_figures(SETTING)
    assert [figure.goal for figure in figures] == [None, 1.5, 1.5]
    assert all(figure.low > 0 for figure in figures)
    assert torch.get_float32_matmul_precision() == before


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    contenders: dict[str, Callable[[], object]] = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved(contenders, 3, torch.device("cpu"))
    assert "".join(calls) == "abccbaabc"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    figure = ratio("x", [1.0, 6.0, 2.0], [2.0, 2.0, 8.0], goal=0.5, note="why")
    assert (figure.low, figure.value, figure.high) == (0.25, 0.5, 3.0)
    assert figure.met
    assert figure.note == "2.00 s / 2.00 s; why"


def test_goals_go_either_way() -> None:
    assert Figure("x", 0.9, 0.9, 0.9, 1.0, more_is_better=True).met is False
    assert Figure("x", 1.1, 1.1, 1.1, 1.0, more_is_better=True).met is True
    assert Figure("x", 1.1, 1.1, 1.1, 1.0).met is False
    assert Figure("x", 1.1, 1.1, 1.1).met is None
    (*_, row) = table([Figure("x", 1.1, 1.0, 1.25, 1.0, more_is_better=True, note="n")])
    assert row == "| x | 1.10 | 1.00 – 1.25 | ≥ 1 | yes | n |"


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "results" / "page.md"
    arguments = ["merge", "fisher", "--pico", "--sentences", "16", "--repeats", "1", "--output", str(page)]
    assert command.main(arguments) == 0
    text = page.read_text(encoding="utf-8")
    assert "## merge" in text
    assert "## fisher" in text
    assert "## gram" not in text
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert f"written to {page}" in capsys.readouterr().out
    assert [path.name for path in page.parent.iterdir()] == ["page.md"]


def test_sections_of_families_that_are_not_measured_again_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Benchmarks\n\nWords.\n\n## gram\n\n| old |\n\n## merge\n\n| old |\n\n"
        "## Machine\n\n- one thread\n- commit abc\n"
    )
    for family in ("fisher", "merge"):
        assert command.main([family, "--pico", "--sentences", "16", "--repeats", "1", "--output", str(page)]) == 0
    sections = read_sections(page)
    assert list(sections) == ["gram", "merge", "fisher"]
    assert sections["gram"] == ["| old |", "", "- one thread", "- commit abc"]
    for family in ("merge", "fisher"):
        assert "| old |" not in sections[family]
        assert sum(line.startswith("- commit ") for line in sections[family]) == 1


def test_long_families_are_measured_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    for name in families.FAMILIES:
        monkeypatch.setitem(families.FAMILIES, name, lambda _, name=name: measured.append(name) or [])
    assert command.main(["--output", str(tmp_path / "page.md")]) == 0
    assert measured == ["gram", "fisher", "merge", "training", "start"]
    assert command.main(["peers", "--output", str(tmp_path / "page.md")]) == 0
    assert measured[-1] == "peers"


def test_a_family_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(setting: Setting) -> list[Figure]:
        raise OSError("no such data")

    monkeypatch.setitem(families.FAMILIES, "gram", fail)
    page = tmp_path / "page.md"
    arguments = ["gram", "merge", "--pico", "--sentences", "16", "--repeats", "1", "--output", str(page)]
    assert command.main(arguments) == 1
    text = page.read_text(encoding="utf-8")
    assert "Failed: OSError: no such data" in text
    assert "RegMean of 2 members" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", "cuda"]) == 2
    assert "no CUDA GPU" in capsys.readouterr().err


def test_an_unknown_family_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["nonsense"])
    assert "gram" in capsys.readouterr().err

"""A method by a YAML file of somebody's own is called by the file, in whatever shows it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from regmean_lab.__main__ import main
from regmean_lab.config.method_option import option_of
from regmean_lab.report.cli import main as report
from regmean_lab.report.rows import rows_of
from regmean_lab.results import read_result


@pytest.mark.parametrize(
    ("overrides", "otherwise", "expected"),
    [
        (["method=gentle", "seed=1"], None, "gentle"),
        (["method=gentle", "method=regmean"], "gentle", None),
        (["method=package.module.RegMean"], None, None),
        (["method.off_diagonal=0.25"], "gentle", "gentle"),
        ([], None, None),
    ],
)
def test_the_file_that_overrides_choose(overrides: list[str], otherwise: str | None, expected: str | None) -> None:
    assert option_of(overrides, "regmean", otherwise) == expected


def test_progress_tables_and_reports_say_the_file(
    tmp_path: Path,
    write_emotions: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "gentle.yaml").write_text(
        "defaults: [task_arithmetic, _self_]\nscaling: 0.25\n", encoding="utf-8"
    )
    arguments = [
        *("--config-dir", "mine", "suite=emotion", "suite.out_of_domain=[emoint]", "model=pico_bert", "trainer=cpu"),
        *("members=[tec,isear]", "logger=none", "training.epochs=1", "trainer.progress_bar=false"),
        *(f"paths.data_dir={write_emotions(tmp_path / 'data')}", "paths.zoo_dir=zoo", "paths.output_dir=out"),
    ]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["regmean_lab", *arguments, *more])
        main()
        shown = capfd.readouterr()
        return shown.out + shown.err

    shown = run("method=gentle,task_arithmetic", "-m")
    table = sorted((tmp_path / "out" / "sweeps").glob("*/table.md"))[-1].read_text()
    assert "| gentle |" in table and "| task_arithmetic |" in table
    assert "tec+isear gentle seed" in shown
    results = [read_result(path) for path in (tmp_path / "out").rglob("result.json")]
    assert {result.label: result.method for result in results} == {
        "gentle": "task_arithmetic",
        "task_arithmetic": "task_arithmetic",
    }
    assert {result.label: result.configuration["method"]["scaling"] for result in results}["gentle"] == 0.25
    assert {label for label, _ in rows_of(results)} == {"gentle", "task_arithmetic"}
    shown = run("method=task_arithmetic", "method.scaling=0.25")  # found, and called as it is asked for
    assert "0 computed now" in shown and "gentle" not in shown

    report(["results=out", "output=page"], "report")
    (page,) = (tmp_path / "page").glob("*.html")
    assert {">gentle<", ">task_arithmetic<"} <= set(re.findall(r">\w+<", page.read_text(encoding="utf-8")))

"""A report as an offline run of W&B, and what the end of a sweep logs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image
from report_results import cell_of, make_result, pairwise, section_of, write_results

from regmean_lab.report import wandb_run
from regmean_lab.report.cli import ArgumentsError, main, read_arguments
from regmean_lab.report.tables import overview
from regmean_lab.report.wandb_run import logged_table
from regmean_lab.results import Result
from regmean_lab.sweeps.summary import JobRecord, summarise
from regmean_lab.tracking.sweep_name import SWEEP_VARIABLE


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Runs something that logs to W&B without an account; skips where W&B cannot write on this machine."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except (wandb.errors.UsageError, wandb.errors.CommError, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"W&B cannot write an offline run on this machine: {error}")

    return run


def media(folder: Path) -> dict[str, list[Path]]:
    """What the only offline run below a folder holds, by kind."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    kinds = (run / "files" / "media").iterdir()
    return {kind.name: [path for path in kind.rglob("*") if path.is_file()] for kind in kinds}


def test_a_table_is_logged_with_unrounded_means() -> None:
    results = pairwise(("simple", "regmean"), (1,))
    columns, rows = logged_table(overview(section_of(results), "t"))

    assert columns == ["method", "in domain", "out of domain"]
    inside = [r.mean_in_domain for r in results if r.method == "regmean"]
    assert rows[1][0] == "regmean"
    assert rows[1][1] == pytest.approx(sum(inside) / len(inside))


def test_the_command_logs_tables_figures_and_page(
    tmp_path: Path, offline: Callable[[Callable[[], object]], None]
) -> None:
    write_results(tmp_path / "results", pairwise(("simple", "regmean"), (1, 2)))
    arguments = [f"results={tmp_path / 'results'}", f"output={tmp_path / 'report'}", "wandb=the-project"]
    offline(lambda: main(arguments))

    found = media(tmp_path / "report")
    (table,) = found["table"]
    content = json.loads(table.read_text())
    expected = logged_table(overview(section_of(pairwise(("simple", "regmean"), (1, 2))), "t"))
    assert (content["columns"], content["data"]) == (expected[0], [pytest.approx(row) for row in expected[1]])
    drawn = {path.stem: path for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert len(found["images"]) == len(drawn) == 4
    for path in found["images"]:
        (name,) = [name for name in drawn if path.name.startswith(f"{name}_")]
        assert Image.open(path).tobytes() == Image.open(drawn[name]).tobytes()
    assert len(found["html"]) == 1


@pytest.mark.parametrize("value", ["a/b/c", "/"])
def test_a_wrong_project_is_told(value: str) -> None:
    with pytest.raises(ArgumentsError, match="expected PROJECT or ENTITY/PROJECT"):
        read_arguments([f"wandb={value}"])
    assert read_arguments(["wandb=someone/merging"]).wandb == "someone/merging"


def sweep(folder: Path, results: list[Result], *, computed: bool) -> Path:
    """The folder of a sweep that has ended."""
    for number, path in enumerate(write_results(folder / "out", results)):
        record = folder / "sweeps" / "s" / "jobs" / f"{number:05d}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(asdict(JobRecord([], str(path.parent), None, computed))))
    return folder / "sweeps" / "s"


def logged(method: str, kind: str = "wandb") -> Result:
    logger = {"kind": kind, "project": "p", "entity": None, "offline": True, "group": None}
    return make_result(method, configuration={"logger": logger})


def test_a_sweep_that_logs_to_wandb_ends_with_its_report_there(
    tmp_path: Path,
    offline: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, "s")
    folder = sweep(tmp_path, [logged("simple"), logged("regmean")], computed=True)
    offline(lambda: summarise(folder))

    assert (folder / "report" / "report.html").is_file()
    assert f"Report: {folder / 'report' / 'report.html'}" in capsys.readouterr().out
    found = media(folder / "report")
    assert len(found["images"]) == len(list((folder / "report" / "figures").glob("*.png"))) > 0
    content = json.loads(found["table"][0].read_text())
    cell = cell_of(overview(section_of([logged("simple"), logged("regmean")]), "t"), "simple", "in domain")
    assert content["data"][0][:2] == ["simple", pytest.approx(cell.mean)]


@pytest.mark.parametrize(
    ("results", "computed"),
    [
        ([logged("simple", "csv"), logged("regmean", "csv")], True),  # another logger
        ([logged("simple"), logged("regmean")], False),  # nothing is new
        ([logged("simple")], True),  # one job has its run
    ],
)
def test_other_sweeps_log_no_report(
    tmp_path: Path, results: list[Result], computed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_run, "log_report", pytest.fail)
    folder = sweep(tmp_path, results, computed=computed)
    summarise(folder)
    assert not (folder / "report").exists()


def test_a_report_that_wandb_does_not_take_is_told_and_written_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any) -> None:
        raise wandb.errors.CommError("no network")

    monkeypatch.setattr(wandb_run, "log_report", refuse)
    folder = sweep(tmp_path, [logged("simple"), logged("regmean")], computed=True)
    summarise(folder)
    shown = capsys.readouterr()
    assert "could not be logged to W&B: CommError: no network" in shown.err
    assert (folder / "report" / "report.html").is_file()

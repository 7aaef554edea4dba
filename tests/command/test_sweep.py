from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regmean_lab.results import Result
from regmean_lab.sweeps.summary import FIGURE_FILE, SWEEPS_FOLDER, TABLE_FILE, JobRecord, record_job, summarise
from regmean_lab.tracking.sweep_name import SWEEP_VARIABLE, begin_sweep, current_sweep


def result(method: str, seed: int, score: float) -> Result:
    return Result(
        fingerprint=f"{method}{seed}",
        experiment="x",
        suite="emotion",
        model="pico_bert",
        method=method,
        members=["tec", "isear"],
        seed=seed,
        head_init="same",
        scores={"in_domain": {"tec": score, "isear": score + 10}, "out_of_domain": {"emoint": score - 20}},
        mean_in_domain=score + 5,
        mean_out_of_domain=score - 20,
        metrics={},
        seconds={},
        peak_memory_bytes=1,
        environment={},
        data_fingerprint="d",
        zoo={},
        configuration={"method": {"name": method}},
    )


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(SWEEP_VARIABLE, "this sweep")
    return "this sweep"


def finish(output_dir: Path, number: int, one: Result, computed: bool = True) -> None:
    folder = output_dir / str(number)
    one.write(folder)
    record_job(output_dir, number, JobRecord([f"method={one.method}"], str(folder), None, computed))


def test_the_name_of_a_sweep_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWEEP_VARIABLE, "earlier")
    name = begin_sweep()
    assert name != "earlier"
    assert current_sweep() == name
    monkeypatch.delenv(SWEEP_VARIABLE)
    assert current_sweep() is None


def test_jobs_outside_of_a_sweep_leave_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWEEP_VARIABLE, raising=False)
    record_job(tmp_path, 0, JobRecord([], "folder"))
    assert list(tmp_path.iterdir()) == []


def test_a_record_says_how_a_job_ended(tmp_path: Path, sweep: str) -> None:
    record_job(tmp_path, 3, JobRecord(["seed=1"], "folder", "broken", False))
    (path,) = (tmp_path / SWEEPS_FOLDER / sweep / "jobs").iterdir()
    assert json.loads(path.read_text()) == {
        "overrides": ["seed=1"],
        "folder": "folder",
        "error": "broken",
        "computed": False,
    }


def test_a_summary_has_a_table_and_a_figure(tmp_path: Path, sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (method, seed, score) in enumerate(
        [("simple", 1, 50.0), ("simple", 2, 52.0), ("regmean", 1, 60.0), ("regmean", 2, 63.0)]
    ):
        finish(tmp_path, number, result(method, seed, score), computed=number > 0)
    folder = tmp_path / SWEEPS_FOLDER / sweep
    summarise(folder)
    shown = capsys.readouterr()
    assert "4 results, 3 computed now." in shown.out
    for text in ("51.00", "61.50", "simple", "regmean"):
        assert text in shown.out
        assert text in (folder / TABLE_FILE).read_text()
    assert (folder / FIGURE_FILE).read_bytes().startswith(b"\x89PNG")
    assert shown.err == ""


def test_members_that_score_0_are_told_below_the_table(
    tmp_path: Path, sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    zero = {"in_domain": {"tec": 0.0, "isear": 0.0}, "out_of_domain": {"emoint": 0.0}}
    finish(tmp_path, 0, replace(result("simple", 1, 0.0), scores=zero))
    finish(tmp_path, 1, result("regmean", 1, 60.0))
    summarise(tmp_path / SWEEPS_FOLDER / sweep)
    shown = capsys.readouterr().out
    assert shown.count("Note: ") == 1
    assert "Note: simple: scores 0 on the data of every member" in shown


def test_failed_jobs_are_told_with_their_reason(tmp_path: Path, sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path, 0, result("simple", 1, 50.0))
    record_job(tmp_path, 1, JobRecord(["method=regmean", "seed=1"], "where/it/was", "NaN in a layer"))
    summarise(tmp_path / SWEEPS_FOLDER / sweep)
    shown = capsys.readouterr()
    assert "1 result, 1 computed now." in shown.out
    for text in ("FAILED: method=regmean seed=1", "NaN in a layer", "where/it/was", "1 of 2 jobs failed"):
        assert text in shown.err


def test_a_result_that_vanished_is_told_and_the_others_are_shown(
    tmp_path: Path, sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, 0, result("simple", 1, 50.0))
    finish(tmp_path, 1, result("regmean", 1, 60.0))
    (tmp_path / "1" / "result.json").unlink()
    summarise(tmp_path / SWEEPS_FOLDER / sweep)
    shown = capsys.readouterr()
    assert "50.00" in shown.out
    assert str(tmp_path / "1" / "result.json") in shown.err


def test_a_single_job_is_told_where_its_result_is(
    tmp_path: Path, sweep: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path, 0, result("simple", 1, 50.0))
    summarise(tmp_path / SWEEPS_FOLDER / sweep)
    shown = capsys.readouterr().out
    assert f"Result: {tmp_path / '0' / 'result.json'}" in shown
    assert "Merged model" not in shown
    (tmp_path / "0" / "merged").mkdir()
    summarise(tmp_path / SWEEPS_FOLDER / sweep)
    assert f"Merged model: {tmp_path / '0' / 'merged'}" in capsys.readouterr().out


def test_a_command_without_jobs_has_no_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summarise(tmp_path / "nothing")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "nothing").exists()


def test_labels_that_were_not_predicted_are_named(
    sweep: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, unknown in enumerate(({"ssec": ["trust"]}, {"ssec": ["trust", "love"], "emoint": ["fear"]}, {}, None)):
        finish(tmp_path, number, replace(result("simple", number, 40.0), unknown_labels=unknown))
    summarise(tmp_path / SWEEPS_FOLDER / sweep)
    line = "Not predicted, as no member of a job was trained on them (F1 0): ssec: trust, love; emoint: fear"
    assert line in capsys.readouterr().out

"""What loggers are given of a result, read back from the files that they write."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from wandb_records import finished_run, recorded

from regmean_lab.config.groups import LoggerConfig
from regmean_lab.results import Result
from regmean_lab.statistics import GramFile, collect_gram, save_gram
from regmean_lab.tracking.logged_results import diagnostics_table, log_result, log_statistics, scores_table
from regmean_lab.tracking.loggers import open_loggers
from regmean_lab.tracking.sweep_name import SWEEP_VARIABLE

KEYS = {"tec": "macro_f1", "isear": "macro_f1", "emoint": "accuracy"}
CONFIGURATION = {"seed": 1, "method": {"name": "regmean", "off_diagonal": 0.9}}
LAYERS = [
    {"layer": "encoder.0.query", "jitter": 0.0, "condition": 12.5, "unseen_features": 0, "off_diagonal_share": 0.25},
    {"layer": "encoder.0.key", "jitter": 1e-6, "condition": 3e8, "unseen_features": 7, "off_diagonal_share": 0.5},
]


def result(method: str, metrics: dict[str, Any], diagnostics: list[dict[str, Any]]) -> Result:
    return Result(
        fingerprint="f",
        experiment="pairs",
        suite="emotion",
        model="pico_bert",
        method=method,
        members=["tec", "isear"],
        seed=1,
        head_init="same",
        scores={"in_domain": {"tec": 50.0, "isear": 60.0}, "out_of_domain": {"emoint": 40.0}},
        mean_in_domain=55.0,
        mean_out_of_domain=40.0,
        metrics=metrics,
        seconds={"merge": 1.5},
        peak_memory_bytes=1,
        environment={},
        data_fingerprint="d",
        zoo={},
        diagnostics=diagnostics,
    )


@pytest.fixture
def merged() -> Result:
    """Of a merge: one model on every corpus; one corpus has a metric that the others lack."""
    metrics = {
        "tec": {"macro_f1": 50.0, "loss": 0.5},
        "isear": {"macro_f1": 60.0, "loss": 0.25},
        "emoint": {"macro_f1": 30.0, "accuracy": 40.0},
    }
    return result("regmean", metrics, LAYERS)


@pytest.fixture
def individual() -> Result:
    """Of the members themselves: each on its own corpus and out of domain."""
    metrics = {
        "tec": {"tec": {"macro_f1": 50.0}, "emoint": {"macro_f1": 1.0, "accuracy": 30.0}},
        "isear": {"isear": {"macro_f1": 60.0}, "emoint": {"macro_f1": 2.0, "accuracy": 50.0}},
    }
    return result("individual", metrics, [])


def test_scores_of_a_merge(merged: Result) -> None:
    table = scores_table(merged, KEYS)
    assert table.columns == ["model", "corpus", "domain", "key_score", "macro_f1", "loss", "accuracy"]
    assert table.rows == [
        ["regmean", "tec", "in", 50.0, 50.0, 0.5, None],
        ["regmean", "isear", "in", 60.0, 60.0, 0.25, None],
        ["regmean", "emoint", "out", 40.0, 30.0, None, 40.0],
    ]


def test_scores_of_each_member(individual: Result) -> None:
    table = scores_table(individual, KEYS)
    assert table.columns == ["model", "corpus", "domain", "key_score", "macro_f1", "accuracy"]
    assert table.rows == [
        ["tec", "tec", "in", 50.0, 50.0, None],
        ["tec", "emoint", "out", 30.0, 1.0, 30.0],
        ["isear", "isear", "in", 60.0, 60.0, None],
        ["isear", "emoint", "out", 50.0, 2.0, 50.0],
    ]


def test_diagnostics_are_a_row_a_layer(merged: Result, individual: Result) -> None:
    table = diagnostics_table(merged)
    assert [dict(zip(table.columns, row, strict=True)) for row in table.rows] == LAYERS
    assert diagnostics_table(individual).rows == []


def test_what_diagnostics_say_of_each_member_is_a_column_a_member(merged: Result) -> None:
    merged.diagnostics = [{"layer": "query", "distances": {"tec": 0.9, "isear": 1.1}}, {"layer": "classifier"}]
    table = diagnostics_table(merged)
    assert table.columns == ["layer", "distances/tec", "distances/isear"]
    assert table.rows == [["query", 0.9, 1.1], ["classifier", None, None]]


def log(kind: str, folder: Path, one: Result) -> None:
    config = LoggerConfig(kind, project="the project", offline=True)
    with open_loggers(config, folder, "tec+isear regmean seed 1", "merge", "pairs", CONFIGURATION) as loggers:
        log_result(loggers, one, KEYS)


def test_csv_files_hold_the_tables(tmp_path: Path, merged: Result, individual: Result) -> None:
    log("csv", tmp_path / "merge", merged)
    with (tmp_path / "merge" / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["corpus"], float(line["key_score"]), line["accuracy"]) for line in lines] == [
        ("tec", 50.0, ""),
        ("isear", 60.0, ""),
        ("emoint", 40.0, "40.0"),
    ]
    with (tmp_path / "merge" / "merge_diagnostics.csv").open(newline="") as file:
        assert [float(line["condition"]) for line in csv.DictReader(file)] == [12.5, 3e8]
    with (tmp_path / "merge" / "metrics.csv").open(newline="") as file:
        (measured,) = csv.DictReader(file)
    assert float(measured["mean_in_domain"]) == 55.0
    assert float(measured["score/out_of_domain/emoint"]) == 40.0
    log("csv", tmp_path / "individual", individual)
    assert not (tmp_path / "individual" / "merge_diagnostics.csv").exists()


def test_statistics_are_logged_with_what_they_are_the_mean_of(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    gram = collect_gram(
        model, [{"rows": torch.randn(5, 3)}, {"rows": torch.randn(2, 3)}], forward=lambda net, batch: net(batch["rows"])
    )
    save_gram(tmp_path / "gram.safetensors", gram, {"relative_change": 0.25})
    with (
        GramFile(tmp_path / "gram.safetensors") as file,
        open_loggers(LoggerConfig("csv"), tmp_path / "log", "gram of tec", "statistics", "g", CONFIGURATION) as loggers,
    ):
        log_statistics(loggers, file, 1.5)
    with (tmp_path / "log" / "metrics.csv").open(newline="") as file:
        (measured,) = csv.DictReader(file)
    size = (tmp_path / "gram.safetensors").stat().st_size
    assert {name: float(value) for name, value in measured.items() if name != "step"} == {
        "seconds/statistics": 1.5,
        "statistics/examples": 7.0,
        "statistics/batches": 2.0,
        "statistics/megabytes": size / 1e6,
        "statistics/fewest_rows": 7.0,
        "statistics/most_rows": 7.0,
        "statistics/relative_change": 0.25,
    }


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_shows_the_tables_as_text(tmp_path: Path, merged: Result) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log("tensorboard", tmp_path, merged)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("mean_in_domain")[0].value == 55.0
    (shown,) = events.Tensors("table/scores/text_summary")
    text = shown.tensor_proto.string_val[0].decode()
    assert text.splitlines()[0] == "| model | corpus | domain | key_score | macro_f1 | loss | accuracy |"
    assert "| regmean | emoint | out | 40 | 30 |  | 40 |" in text.splitlines()
    (shown,) = events.Tensors("table/merge_diagnostics/text_summary")
    assert "| encoder.0.key | 1e-06 | 3e+08 | 7 | 0.5 |" in shown.tensor_proto.string_val[0].decode().splitlines()


class TestWandb:
    @pytest.fixture
    def run_folder(self, tmp_path: Path, merged: Result, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder of an offline run."""
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            monkeypatch.setenv(name, "")  # so that it is put back, even if a logger sets it
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setenv(SWEEP_VARIABLE, "sweep 7")
        try:
            log("wandb", tmp_path, merged)
        except (wandb.errors.UsageError, wandb.errors.CommError, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"W&B cannot write an offline run on this machine: {error}")
        (folder,) = (tmp_path / "wandb").glob("offline-run-*")
        return folder

    def test_tables_lie_in_the_run(self, run_folder: Path, merged: Result) -> None:
        tables = {
            path.name.rsplit("_", 2)[0]: json.loads(path.read_text())
            for path in (run_folder / "files" / "media" / "table" / "table").glob("*.table.json")
        }
        expected = [scores_table(merged, KEYS), diagnostics_table(merged)]
        assert tables == {table.name: {"columns": table.columns, "data": table.rows} for table in expected}

    def test_the_run_says_what_it_is(self, run_folder: Path) -> None:
        records = finished_run(run_folder)
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        assert (run.project, run.run_group, run.job_type) == ("the project", "sweep 7", "merge")
        assert run.display_name == "tec+isear regmean seed 1"
        configured, summary = recorded(records, "config"), recorded(records, "summary")
        assert configured["method"] == CONFIGURATION["method"]
        assert configured["seed"] == 1
        assert (summary["mean_in_domain"], summary["mean_out_of_domain"]) == (55.0, 40.0)
        assert summary["score/in_domain/isear"] == 60.0
        assert {"table/scores", "table/merge_diagnostics"} <= set(summary)

    def test_a_run_is_closed(self, run_folder: Path) -> None:
        assert wandb.run is None
        assert run_folder.is_dir()

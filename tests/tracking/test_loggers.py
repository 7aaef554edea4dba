from __future__ import annotations

import importlib.util
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import wandb
import yaml
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from regmean_lab.config.groups import LoggerConfig
from regmean_lab.tracking.loggers import logger_problems, open_loggers, wandb_is_offline
from regmean_lab.tracking.sweep_name import SWEEP_VARIABLE

CONFIGURATION = {"seed": 1, "method": {"name": "regmean", "coefficients": None}, "members": ["a", "b"]}


def log(config: LoggerConfig, folder: Path, name: str = "job", value: float = 1.5) -> list[Logger]:
    with open_loggers(config, folder, name, "merge", "the experiment", CONFIGURATION) as loggers:
        for logger in loggers:
            logger.log_metrics({"score/in_domain/a": value})
    return loggers


def test_csv_files_lie_in_the_jobs_folder(tmp_path: Path) -> None:
    (logger,) = log(LoggerConfig("csv"), tmp_path / "job")
    assert isinstance(logger, CSVLogger)
    assert "1.5" in (tmp_path / "job" / "metrics.csv").read_text()
    assert yaml.safe_load((tmp_path / "job" / "hparams.yaml").read_text()) == CONFIGURATION


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_a_job_that_runs_again_replaces_its_file(tmp_path: Path) -> None:
    log(LoggerConfig("csv"), tmp_path, value=1.5)
    log(LoggerConfig("csv"), tmp_path, value=2.5)
    text = (tmp_path / "metrics.csv").read_text()
    assert "2.5" in text
    assert "1.5" not in text


def test_no_logger_writes_nothing(tmp_path: Path) -> None:
    assert log(LoggerConfig("none"), tmp_path / "job") == []
    assert not (tmp_path / "job").exists()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_files_lie_in_the_jobs_folder(tmp_path: Path) -> None:
    log(LoggerConfig("tensorboard"), tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("kind", ["wandb", "tensorboard"])
def test_a_missing_package_is_told_before_any_work(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = logger_problems(LoggerConfig(kind))
    assert problem == f"logger: {kind} needs the package {kind}; install it with: pip install {kind}"
    assert logger_problems(LoggerConfig("csv")) == logger_problems(LoggerConfig("none")) == []


class TestClosing:
    """Whatever happens inside, loggers are closed, with how it went."""

    @pytest.fixture
    def statuses(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        found: list[str] = []
        monkeypatch.setattr(CSVLogger, "finalize", lambda logger, status: found.append(status))
        return found

    def test_after_success(self, statuses: list[str], tmp_path: Path) -> None:
        log(LoggerConfig("csv"), tmp_path)
        assert statuses == ["success"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_after_failure(self, statuses: list[str], tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error), open_loggers(LoggerConfig("csv"), tmp_path, "n", "train", "g", CONFIGURATION):
            raise error
        assert statuses == ["failed"]


@dataclass
class Finished:
    """A W&B run that notes how it was finished."""

    note: dict[str, object]

    def finish(self, exit_code: int) -> None:
        self.note["exit_code"] = exit_code


class TestWandb:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC", SWEEP_VARIABLE):
            monkeypatch.setenv(name, "")  # so that it is put back, even if a logger sets it
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))

    def test_is_offline_unless_an_account_is_set_up(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert wandb_is_offline(LoggerConfig("wandb"))
        (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        assert not wandb_is_offline(LoggerConfig("wandb"))
        (tmp_path / ".netrc").unlink()
        monkeypatch.setenv("WANDB_API_KEY", "secret")
        assert not wandb_is_offline(LoggerConfig("wandb"))

    @pytest.mark.parametrize(("mode", "offline"), [("offline", True), ("dryrun", True), ("online", False)])
    def test_follows_its_own_variable(self, monkeypatch: pytest.MonkeyPatch, mode: str, offline: bool) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "secret")
        monkeypatch.setenv("WANDB_MODE", mode)
        assert wandb_is_offline(LoggerConfig("wandb")) == offline

    @pytest.mark.parametrize("offline", [True, False])
    def test_follows_the_configuration_first(self, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
        monkeypatch.setenv("WANDB_MODE", "online" if offline else "offline")
        assert wandb_is_offline(LoggerConfig("wandb", offline=offline)) == offline

    @pytest.mark.parametrize(
        ("configured", "sweep", "expected"),
        [(None, None, "the experiment"), (None, "sweep 7", "sweep 7"), ("mine", "sweep 7", "mine")],
    )
    def test_groups_runs_by_sweep(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        configured: str | None,
        sweep: str | None,
        expected: str,
    ) -> None:
        if sweep is not None:
            monkeypatch.setenv(SWEEP_VARIABLE, sweep)
        given: dict[str, object] = {}

        class Spy:
            def __init__(self, **arguments: object) -> None:
                given.update(arguments)

            def log_hyperparams(self, params: object) -> None:
                given["hyperparameters"] = params

            def finalize(self, status: str) -> None:
                given["status"] = status

        monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger", Spy)
        monkeypatch.setattr(Spy, "experiment", Finished(given), raising=False)
        with open_loggers(
            LoggerConfig("wandb", project="p", group=configured), tmp_path, "job", "merge", "the experiment", {"a": 1}
        ):
            pass
        assert (given["group"], given["job_type"], given["project"], given["offline"]) == (expected, "merge", "p", True)
        assert (given["hyperparameters"], given["status"], given["exit_code"]) == ({"a": 1}, "success", 0)

    def test_two_jobs_in_a_row_are_two_runs_and_both_are_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        config = LoggerConfig("wandb", offline=True)
        try:
            loggers = [log(config, tmp_path / name, name)[0] for name in ("first", "second")]
        except (wandb.errors.UsageError, wandb.errors.CommError, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"W&B cannot write an offline run on this machine: {error}")
        ids = []
        for logger, name in zip(loggers, ("first", "second"), strict=True):
            assert isinstance(logger, WandbLogger)
            ids.append(logger.version)
            (run,) = (tmp_path / name / "wandb").glob("offline-run-*")
            assert list(run.glob("*.wandb"))
        assert len(set(ids)) == 2
        assert wandb.run is None

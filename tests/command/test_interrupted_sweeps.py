"""Sweeps that are killed in the middle, two at once, and one with a job that fails: as a person would start them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import Forks

from regmean_lab.results import Result, read_result

WAIT_SECONDS = 120
"""How long to wait for something to happen before the test fails; it takes a fraction of it."""

METHODS = ("simple", "regmean")
MEMBERS = ("tec", "isear", "crowdflower")


@dataclass
class Sweep:
    """A sweep over pairs and methods of small emotion members, in folders of its own."""

    folder: Path
    data: Path

    def arguments(self, *more: str, zoo: Path | None = None) -> list[str]:
        return [
            "-m",
            "suite=emotion",
            "suite.out_of_domain=[emoint]",
            "model=pico_bert",
            "members=[tec,isear],[tec,crowdflower]",
            f"method={','.join(METHODS)}",
            "training.epochs=2",
            "trainer=cpu",
            "trainer.progress_bar=false",
            "logger=none",
            "statistics.gram.examples=32",
            f"paths.data_dir={self.data}",
            f"paths.zoo_dir={zoo or self.zoo}",
            f"paths.output_dir={self.outputs}",
            *more,
        ]

    @property
    def zoo(self) -> Path:
        return self.folder / "zoo"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def log(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        return self.folder / "log.txt"

    def results(self) -> dict[tuple[str, ...], Result]:
        found = [read_result(path) for path in self.outputs.rglob("result.json")]
        return {(*result.members, result.method): result for result in found}

    def entries(self) -> dict[str, tuple[float, str]]:
        """When each member of the zoo was written, and what its weights are."""
        records = {path.parent.name: path for path in self.zoo.glob("emotion-*/training.json")}
        return {
            name: (path.stat().st_mtime, json.loads(path.read_text())["weights_sha256"])
            for name, path in records.items()
        }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]) -> Path:
    return write_emotions(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The same sweep without any interruption."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"), data)
    assert forks.wait(forks.start(sweep.arguments(), sweep.log)) == 0, sweep.log.read_text()
    assert len(sweep.results()) == 2 * len(METHODS)
    return sweep


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def training_has_begun(sweep: Sweep) -> bool:
    """A second member is being trained: the first one is there, and a temporary folder."""
    return bool(sweep.entries()) and any(sweep.zoo.glob(".tmp-*"))


def statistics_have_begun(sweep: Sweep) -> bool:
    return any(sweep.zoo.glob("emotion-*/statistics/*.safetensors"))


def evaluation_has_begun(sweep: Sweep) -> bool:
    return len(sweep.results()) >= 1


def test_a_killed_sweep_goes_on_where_it_was(forks: Forks, data: Path, undisturbed: Sweep, tmp_path: Path) -> None:
    """One sweep that is killed three times: while a member is trained, statistics are collected, jobs are evaluated."""
    sweep = Sweep(tmp_path, data)
    trained: dict[str, tuple[float, str]] = {}
    finished: dict[Path, int] = {}
    for begun in (training_has_begun, statistics_have_begun, evaluation_has_begun):
        process = forks.start(sweep.arguments(), sweep.log)
        until(lambda begun=begun: begun(sweep))
        os.kill(process, signal.SIGKILL)
        assert forks.wait(process) == -signal.SIGKILL
        assert trained.items() <= sweep.entries().items()  # what was trained is not trained again
        trained = sweep.entries()
        finished = {path: path.stat().st_mtime_ns for path in sweep.outputs.rglob("result.json")}
        assert len(finished) < len(undisturbed.results())

    assert finished
    assert forks.wait(forks.start(sweep.arguments(), sweep.log)) == 0, sweep.log.read_text()
    results, expected = sweep.results(), undisturbed.results()
    assert {key: result.metrics for key, result in results.items()} == {
        key: result.metrics for key, result in expected.items()
    }
    after = sweep.entries()
    assert {name: weights for name, (_, weights) in after.items()} == {
        name: weights for name, (_, weights) in undisturbed.entries().items()
    }
    assert trained.items() <= after.items()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(sweep.zoo.glob(".tmp-*"))


def test_two_sweeps_at_once_train_every_member_once(
    forks: Forks, data: Path, undisturbed: Sweep, tmp_path: Path
) -> None:
    zoo = tmp_path / "zoo"
    sweeps = [Sweep(tmp_path / name, data) for name in ("first", "second")]
    processes = [forks.start(sweep.arguments(zoo=zoo), sweep.log) for sweep in sweeps]
    for sweep, process in zip(sweeps, processes, strict=True):
        assert forks.wait(process) == 0, sweep.log.read_text()
        assert {key: result.metrics for key, result in sweep.results().items()} == {
            key: result.metrics for key, result in undisturbed.results().items()
        }
    logs = "".join(sweep.log.read_text() for sweep in sweeps)
    for member in MEMBERS:
        assert logs.count(f" trained {zoo / f'emotion-{member}'}-") == 1
        assert len(list(zoo.glob(f"emotion-{member}-*"))) == 1
    collected = logs.count(" collected ")
    assert collected == len(list(zoo.glob("emotion-*/statistics/*.safetensors"))) == len(MEMBERS)


def test_one_job_that_fails_leaves_the_others_their_results(
    forks: Forks, data: Path, undisturbed: Sweep, tmp_path: Path
) -> None:
    """A member whose weights are damaged is found out when it is used."""
    sweep = Sweep(tmp_path, data)
    shutil.copytree(undisturbed.zoo, sweep.zoo)
    for statistics in sweep.zoo.glob("*/statistics"):
        shutil.rmtree(statistics)
    (entry,) = sweep.zoo.glob("emotion-crowdflower-*")
    (entry / "model.safetensors").write_bytes(b"damaged")
    status = forks.wait(forks.start(sweep.arguments(), sweep.log))
    log = sweep.log.read_text()
    assert status == 1, log
    assert "2 results, 2 computed now." in log
    failed = [line for line in log.splitlines() if line.startswith("FAILED: ")]
    assert failed
    assert all("members=[tec,crowdflower]" in line for line in failed)
    assert "gram statistics of crowdflower, seed 1 could not be collected" in log
    assert {result.members[1] for result in sweep.results().values()} == {"isear"}

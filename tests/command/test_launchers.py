"""The same sweep by every launcher: the same results, and what fails is told in the same way."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forks import Forks
from hydra._internal.callbacks import Callbacks
from hydra.errors import HydraException
from hydra.types import HydraContext
from hydra.utils import instantiate
from launched_sweeps import METHODS, LaunchedSweep, assert_same_results, copy_zoo, sweep_arguments
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.regmean_lab_launchers.ray_launcher import init_arguments
from regmean_lab.command.overrides import override_problems
from regmean_lab.config.grids import composing, config_loader
from regmean_lab.config.locations import configuration_root
from regmean_lab.sweeps import launchers
from regmean_lab.sweeps.launchers import EXTRAS, PACKAGES, launcher_problems, register_launchers
from regmean_lab.sweeps.summary import SWEEPS_FOLDER
from regmean_lab.utils.threads import limit_threads

SEEDS = (1, 2)
WAIT_SECONDS = 300
"""How long a sweep may take before the test fails; it takes a tenth of it."""


def needs(launcher: str) -> None:
    """Skip the test where the launcher's extra is not installed."""
    for problem in launcher_problems(launcher):
        pytest.skip(problem)


@pytest.fixture(scope="module")
def run_sweep(
    forks: Forks, tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]
) -> Iterator[Callable[..., LaunchedSweep]]:
    """Runs a sweep over methods and seeds as a command, in a folder of its own; in a fork, or as a person starts it."""
    data_dir = write_emotions(tmp_path_factory.mktemp("data"))
    home = tmp_path_factory.mktemp("home")
    # Ray's sockets have names that must be short.
    ray_folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")

    def run(
        folder: Path, *overrides: str, methods: tuple[str, ...] = METHODS, threads: str | None = "1", fork: bool = True
    ) -> LaunchedSweep:
        environment = {"OMP_NUM_THREADS": threads, "HOME": str(home), "RAY_TMPDIR": ray_folder, "COLUMNS": "200"}
        arguments = sweep_arguments(data_dir, *overrides, methods=methods, seeds=SEEDS)
        folder.mkdir(parents=True, exist_ok=True)
        if fork:
            status, told = forks.run(arguments, folder / "log.txt", folder, environment=environment)
            return LaunchedSweep(folder, status, told, told)
        done = subprocess.run(
            [sys.executable, "-m", "regmean_lab", *arguments],
            cwd=folder,
            env={name: value for name, value in {**os.environ, **environment}.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )
        return LaunchedSweep(folder, done.returncode, done.stdout, done.stderr)

    yield run
    try:
        assert no_process_left(ray_folder), "Ray goes on after the command"
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)


def no_process_left(text: str) -> bool:
    """Whether, within some seconds, no process has the text in its command line."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(text in command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
            return True
        time.sleep(0.2)
    return False


def command_line(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


@pytest.fixture(scope="module")
def basic(run_sweep: Callable[..., LaunchedSweep], tmp_path_factory: pytest.TempPathFactory) -> LaunchedSweep:
    """The sweep that the others are compared with: all jobs one after another in one process."""
    sweep = run_sweep(tmp_path_factory.mktemp("basic"))
    assert sweep.status == 0, sweep.errors
    assert set(sweep.results()) == {(method, seed) for method in METHODS for seed in SEEDS}
    return sweep


def fail(folder: Path, basic: LaunchedSweep, method: str, seed: int) -> Path:
    """Make a job of a sweep fail at its end: a folder lies where its result belongs."""
    (path,) = basic.folder.glob(f"out/*/*/*-{method}-seed{seed}-*/result.json")
    place = folder / path.relative_to(basic.folder)
    place.mkdir(parents=True)
    return place


def check(
    sweep: LaunchedSweep,
    basic: LaunchedSweep,
    failing: tuple[str, int],
    launcher: str,
    methods: tuple[str, ...] = METHODS,
) -> None:
    """All jobs but one have the results of the basic launcher; that one is told of."""
    wanted, results = basic.results(), sweep.results()
    assert set(results) == {job for job in wanted if job[0] in methods} - {failing}
    assert_same_results(sweep, basic, launcher)
    assert sweep.status == 1
    method, seed = failing
    (failed,) = (record for record in sweep.records() if record["error"] is not None)
    assert str(failed["error"]).startswith("IsADirectoryError")
    assert {f"method={method}", f"seed={seed}"} <= set(failed["overrides"])  # type: ignore[call-overload]
    (told,) = (line for line in sweep.errors.splitlines() if line.startswith("FAILED: "))
    assert f"method={method} seed={seed}" in told
    assert f"log: {failed['folder']}" in sweep.errors
    assert f"1 of {len(results) + 1} jobs failed; other results are kept." in sweep.errors


def test_scores_differ_between_jobs(basic: LaunchedSweep) -> None:
    """Otherwise equal results would show nothing."""
    assert len({json.dumps(result.scores) for result in basic.results().values()}) == len(METHODS) * len(SEEDS)


def test_processes_of_this_machine(
    basic: LaunchedSweep, run_sweep: Callable[..., LaunchedSweep], tmp_path: Path
) -> None:
    """Members, statistics and jobs, two at a time."""
    needs("joblib")
    copy_zoo(basic, tmp_path, *basic.results()["regmean", 2].zoo.values())
    fail(tmp_path, basic, "regmean", 1)
    sweep = run_sweep(tmp_path, "hydra/launcher=joblib", methods=("regmean",), fork=False)
    check(sweep, basic, ("regmean", 1), "joblib", methods=("regmean",))


@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_a_process_a_job(
    launcher: str, basic: LaunchedSweep, run_sweep: Callable[..., LaunchedSweep], tmp_path: Path
) -> None:
    """The members are there already, but for one: every process takes seconds to import its libraries."""
    needs(launcher)
    # joblib and Ray keep their processes for the jobs, and joblib's train members.
    copy_zoo(basic, tmp_path, *([basic.results()["simple", 1].zoo["tec"]] if launcher == "submitit_local" else []))
    fail(tmp_path, basic, "simple", 2)
    sweep = run_sweep(tmp_path, f"hydra/launcher={launcher}", methods=("simple",), threads=None)
    check(sweep, basic, ("simple", 2), launcher, methods=("simple",))
    (result,) = sweep.results().values()
    assert result.environment["threads"] == 1
    (name,) = (path.name for path in (tmp_path / "out" / SWEEPS_FOLDER).iterdir())
    assert name in sweep.output  # the job has left its record where the summary looks


class TestSettings:
    @pytest.fixture(autouse=True)
    def registered(self) -> None:
        register_launchers()

    @pytest.mark.filterwarnings("error")
    def test_ours_are_merged_into_those_that_a_launcher_declares(self, compose_job: Callable[..., DictConfig]) -> None:
        for launcher in EXTRAS:
            needs(launcher)
            register_launchers()
            config = compose_job(f"hydra/launcher={launcher}", return_hydra_config=True).hydra.launcher
            ours = OmegaConf.load(configuration_root() / "conf" / "hydra" / "launcher" / f"{launcher}.yaml")
            declared = [key for key in config if key not in ours]
            assert {key: config[key] for key in ours if key != "defaults"}.items() <= dict(config).items()
            assert bool(declared) == (launcher != "ray")  # whose own file has all keys

    @pytest.mark.parametrize(
        ("launcher", "override"), [("joblib", "n_jobs=many"), ("submitit_slurm", "array_parallelism=many")]
    )
    def test_types_are_checked(self, launcher: str, override: str, compose_job: Callable[..., DictConfig]) -> None:
        needs(launcher)
        with pytest.raises(HydraException) as error:
            compose_job(f"hydra/launcher={launcher}", f"hydra.launcher.{override}", return_hydra_config=True)
        assert "could not be converted to Integer" in str(error.value.__cause__)

    def test_slurm_is_asked_for_what_is_set(
        self, compose_job: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The batch file as `sbatch` gets it, from a stand-in that keeps it and refuses."""
        needs("submitit_slurm")
        for name, script in (
            ("sbatch", f'cp "$1" {tmp_path}/batch; echo no such partition >&2; exit 1'),
            ("srun", "exit 1"),
        ):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        overrides = ["hydra.launcher.partition=gpu", "hydra.launcher.mem_gb=32", "hydra.launcher.array_parallelism=3"]
        overrides += ["hydra/launcher=submitit_slurm", "hydra.launcher.setup=[module load cuda]", "seed=1"]
        config = compose_job(*overrides, f"paths.output_dir={tmp_path / 'out'}", return_hydra_config=True)
        OmegaConf.set_readonly(config.hydra, False)
        config.hydra.job.name = "regmean_lab"
        launcher = instantiate(config.hydra.launcher)
        with composing():
            context = HydraContext(config_loader=config_loader(), callbacks=Callbacks())
        launcher.setup(hydra_context=context, task_function=len, config=config)
        with pytest.raises(
            HydraException, match=r"SLURM does not take the jobs: .*no such partition.*gpus_per_node=null"
        ):
            launcher.launch([["seed=1"], ["seed=2"], ["seed=3"], ["seed=4"]], 0)
        lines = (tmp_path / "batch").read_text().splitlines()
        asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")}
        assert {
            *("partition=gpu", "mem=32GB", "array=0-3%3", "gpus-per-node=1", "cpus-per-task=4", "nodes=1"),
            *("time=1440", "ntasks-per-node=1", "job-name=regmean_lab"),
        } <= asked
        assert "module load cuda" in lines
        assert lines.index("module load cuda") < next(n for n, line in enumerate(lines) if line.startswith("srun"))


@pytest.mark.parametrize(
    ("configured", "launcher", "executor", "threads"),
    [
        (3, {}, "", 3),
        (3, {"cpus_per_task": 2}, "local", 3),
        (None, {"cpus_per_task": 2}, "local", 2),
        (None, {"cpus_per_task": None}, "local", 1),
        (None, {"n_jobs": 2}, "", None),
    ],
)
def test_threads_of_a_job(
    configured: int | None,
    launcher: dict[str, int | None],
    executor: str,
    threads: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    limit_threads(configured, launcher)
    assert chosen == ([] if threads is None else [threads])


class TestRay:
    def test_a_cluster_that_is_there_is_not_described(self) -> None:
        init = {"address": None, "num_cpus": 2, "num_gpus": None, "include_dashboard": False}
        assert init_arguments(OmegaConf.create(init)) == {"num_cpus": 2, "include_dashboard": False}
        there = {**init, "address": "head:6379", "runtime_env": {"env_vars": {"A": "1"}}}
        assert init_arguments(OmegaConf.create(there)) == {
            "address": "head:6379",
            "runtime_env": {"env_vars": {"A": "1"}},
        }


@pytest.mark.parametrize("launcher", list(EXTRAS))
def test_a_launcher_that_is_not_installed_is_told_with_its_extra(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda package: None)
    assert override_problems([f"hydra/launcher={launcher}", "no_such_key=1"]) == [
        f'hydra/launcher={launcher}: it is not installed; get it with: pip install "regmean-lab[{EXTRAS[launcher]}]"'
    ]


def test_slurm_is_needed_to_run_jobs_and_not_to_look_at_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("submitit_slurm")
    register_launchers()
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert override_problems(["hydra/launcher=submitit_slurm"], jobs_too=False) == []
    (problem,) = override_problems(["hydra/launcher=submitit_slurm"])
    assert problem.startswith("hydra/launcher=submitit_slurm: there is no sbatch and no squeue on the path; ")


def test_a_misspelt_launcher_is_answered_with_the_nearest() -> None:
    (problem,) = override_problems(["hydra/launcher=rya"])
    assert problem == "hydra/launcher=rya: there is no such option; did you mean ray?"


def test_packages_of_installed_launchers_can_be_imported() -> None:
    for launcher, extra in EXTRAS.items():
        needs(launcher)
        assert importlib.util.find_spec(PACKAGES[extra]) is not None

"""Sweeps on a SLURM cluster of this machine, some of whose jobs are cancelled, requeued, or told that time is over."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from forks import Forks
from launched_sweeps import LaunchedSweep, assert_same_results
from processes import processes, until
from slurm_cluster import VARIABLE, SlurmCluster, find_programs, slurm_cluster

LAUNCHER = ["hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    programs = find_programs(Path(os.environ[VARIABLE]))
    if isinstance(programs, str):
        pytest.skip(f"SLURM is not here: {programs}")
    with slurm_cluster(programs) as started:
        yield started


@dataclass(frozen=True)
class Command:
    """A sweep that runs."""

    forks: Forks
    cluster: SlurmCluster
    folder: Path
    process: int

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def array(self, number: int) -> str:
        """The array of the command's n-th stage, once it has been submitted."""
        until(lambda: len(self.arrays()) > number, lambda: self.log + self.cluster.logs())
        return self.arrays()[number]

    def arrays(self) -> list[str]:
        return re.findall(r"SLURM jobs: (\d+)", self.log)

    def end(self) -> LaunchedSweep:
        status = self.forks.wait(self.process)
        return LaunchedSweep(self.folder, status, self.log, self.log)


def start(forks: Forks, cluster: SlurmCluster, arguments: list[str], folder: Path, *more: str) -> Command:
    (folder / "log.txt").unlink(missing_ok=True)
    (folder / "log.txt").touch()
    changed = {name: value for name, value in cluster.environment.items() if os.environ.get(name) != value}
    process = forks.start([*arguments, *LAUNCHER, *more], folder / "log.txt", folder, environment=changed)
    return Command(forks, cluster, folder, process)


def in_the_middle(cluster: SlurmCluster, folder: Path, address: str, job: str, *command: str) -> None:
    """Have SLURM end a job while it trains a member, which does not go on in the seconds that SLURM leaves it."""
    until(lambda: any(folder.glob(f"zoo/.tmp-{address}-*")), cluster.logs)
    array, _, task = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}"}
    (process,) = (each for each in processes() if each.arguments[0] == sys.executable and wanted <= each.environment)
    assert process.send(signal.SIGSTOP)
    cluster.call(*command, job)
    until(lambda: not process.send(signal.SIGSTOP), cluster.logs)  # SLURM lets it go on, again and again


def test_jobs_that_are_cancelled_or_requeued(
    forks: Forks, cluster: SlurmCluster, arguments: list[str], basic: LaunchedSweep, tmp_path: Path
) -> None:
    """The same command three times: what was cancelled is told, and only that is done again."""
    # Two members are trained. In the middle, the first is put into the queue again, and the second is cancelled.
    addresses = basic.results()["simple", 1].zoo
    command = start(forks, cluster, arguments, tmp_path)
    members = command.array(0)
    with ThreadPoolExecutor() as threads:
        requeued = threads.submit(
            in_the_middle, cluster, tmp_path, addresses["tec"], f"{members}_0", "scontrol", "requeue"
        )
        in_the_middle(cluster, tmp_path, addresses["isear"], f"{members}_1", "scancel")
        requeued.result()
    sweep = command.end()
    assert sweep.status == 1, sweep.output
    lost = f"train isear: SLURM job {members}_1 ended as CANCELLED; what it wrote: "
    errors = [str(record["error"]) for record in sweep.records()]
    assert [error for error in errors if error.startswith(lost)]
    assert errors.count("not run: isear, seed 1, could not be trained") == 2
    assert lost in sweep.output.replace("\n", "")
    assert "Restarts=1" in cluster.call("scontrol", "show", "job", f"{members}_0")
    assert [path.name.split("-")[1] for path in tmp_path.glob("zoo/emotion-*")] == ["tec"]
    assert not sweep.results()

    # The job that collects statistics gets the signal by which SLURM says that the time is over; then one of two merges
    # is cancelled before it has begun.
    command = start(forks, cluster, arguments, tmp_path, "hydra.launcher.array_parallelism=1")
    statistics = command.array(1)
    until(lambda: any(tmp_path.glob("out/*/steps/**/gram-isear/regmean_lab.log")), cluster.logs)
    cluster.call("scancel", "--signal=USR2", statistics)
    merges = command.array(2)
    cluster.call("scancel", f"{merges}_1")
    sweep = command.end()
    assert sweep.status == 1, sweep.output
    assert "Requeued job" in (tmp_path / "out" / ".submitit" / statistics / f"{statistics}_0_log.out").read_text()
    (error,) = (str(record["error"]) for record in sweep.records() if record["error"] is not None)
    assert error == f"SLURM job {merges}_1 was cancelled before it began"
    assert set(sweep.results()) == {("simple", 1)}

    sweep = start(forks, cluster, arguments, tmp_path).end()
    assert sweep.status == 0, sweep.output
    assert "1 member to train" not in sweep.output
    assert "2 results, 1 computed now." in sweep.output
    assert set(sweep.results()) == set(basic.results())
    assert_same_results(sweep, basic, "submitit_slurm")
    assert not list(tmp_path.glob("zoo/.tmp-*"))


def test_jobs_that_slurm_does_not_take(
    forks: Forks, cluster: SlurmCluster, arguments: list[str], tmp_path: Path
) -> None:
    sweep = start(forks, cluster, arguments, tmp_path, "hydra.launcher.partition=gpu").end()
    assert sweep.status == 1
    assert "SLURM does not take the jobs: " in sweep.output
    assert "invalid partition specified: gpu" in sweep.output
    assert "Traceback" not in sweep.output

"""Sweeps on a Ray cluster of two nodes of this machine, one of which is stopped in the middle."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from forks import Forks
from launched_sweeps import LaunchedSweep, assert_same_results
from processes import Process, processes, processes_with, until

from regmean_lab.sweeps.launchers import launcher_problems

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20, "include_dashboard": False}
"""Room for one job. Everything of a node whose address is 127.0.0.1 listens there."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Variables of the cluster and of the commands that use it."""
    # Ray's sockets have names that must be short.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    variables = {"RAY_TMPDIR": folder, "HOME": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    variables["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # otherwise every process looks for all fonts in its new home
    # Otherwise Ray takes 127.0.0.1 for the machine's address in its network.
    variables |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield variables
    shutil.rmtree(folder, ignore_errors=True)


def jobs_of(node: Any) -> list[Process]:
    """Processes of a node that run a job."""
    (raylet,) = (each.process.pid for each in node.all_processes["raylet"])
    return [each for each in processes() if each.parent == raylet and "run_in_worker" in each.arguments[0]]


def switch_off(cluster: Any, node: Any) -> None:
    """End a node as if its machine had been switched off: all processes at once."""
    running = jobs_of(node)
    assert running
    cluster.remove_node(node, allow_graceful=False)
    for process in running:
        process.send(signal.SIGKILL)


def test_a_node_that_is_stopped(
    forks: Forks, arguments: list[str], basic: LaunchedSweep, environment: dict[str, str], tmp_path: Path
) -> None:
    """Without a second try the sweep says what was lost; the same command with one ends, though a node goes again."""
    for problem in launcher_problems("ray"):
        pytest.skip(problem)
    from ray.cluster_utils import Cluster

    log = tmp_path / "log.txt"

    def start(*more: str) -> int:
        log.write_text("")
        ray = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}"]
        return forks.start([*arguments, *ray, *more], log, tmp_path, environment=environment)

    def end(process: int) -> LaunchedSweep:
        status = forks.wait(process)
        return LaunchedSweep(tmp_path, status, log.read_text(), log.read_text())

    cluster = Cluster(initialize_head=True, connect=False, head_node_args=NODE)
    try:
        assert cluster.address.startswith("127.0.0.1:")
        node = cluster.add_node(**NODE)
        process = start("hydra.launcher.ray.remote.max_retries=0")
        until(lambda: jobs_of(node) and any(tmp_path.glob("zoo/.tmp-*")), log.read_text)
        switch_off(cluster, node)
        sweep = end(process)
        assert sweep.status == 1, sweep.output
        lost, *others = (str(record["error"]) for record in sweep.records())
        member = lost.removeprefix("train ").partition(":")[0]
        assert member in ("tec", "isear")
        assert "the node it was running on is dead" in lost
        assert others == [f"not run: {member}, seed 1, could not be trained"] * 2
        (trained,) = (path.name.split("-")[1] for path in tmp_path.glob("zoo/emotion-*"))
        assert {member, trained} == {"tec", "isear"}

        node = cluster.add_node(**NODE)
        process = start()
        until(lambda: "Launching 2 jobs on Ray" in log.read_text() and jobs_of(node), log.read_text)
        switch_off(cluster, node)
        sweep = end(process)
        assert sweep.status == 0, sweep.output
        assert "the node it was running on is dead" in sweep.output  # and its job is tried again
        assert "2 results, 2 computed now." in sweep.output
        assert set(sweep.results()) == set(basic.results())
        assert_same_results(sweep, basic, "ray")
    finally:
        cluster.shutdown()
    until(lambda: not processes_with(environment["RAY_TMPDIR"]), lambda: "Ray goes on after the cluster's end", 30)

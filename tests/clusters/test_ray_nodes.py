"""Sweeps on a Ray cluster of two nodes of this machine, one of which is stopped in the middle."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks
from launched_sweeps import LaunchedSweep, assert_same_results

from regmean_lab.sweeps.launchers import launcher_problems

WAIT_SECONDS = 240
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20, "include_dashboard": False}
"""Room for one job. Everything of a node whose address is 127.0.0.1 listens there."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Variables of the cluster and of the commands that use it."""
    # Ray's sockets have names that must be short.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    variables = {"RAY_TMPDIR": folder, "HOME": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    # Otherwise Ray takes 127.0.0.1 for the machine's address in its network.
    variables |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield variables
    shutil.rmtree(folder, ignore_errors=True)


def until(happened: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


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
        until(lambda: len(list(tmp_path.glob("zoo/.tmp-*"))) == 2, log)
        cluster.remove_node(node, allow_graceful=False)
        sweep = end(process)
        assert sweep.status == 1, sweep.output
        lost, *others = (str(record["error"]) for record in sweep.records())
        member = lost.removeprefix("train ").partition(":")[0]
        assert member in ("tec", "isear")
        assert "the node it was running on is dead" in lost
        assert others == [f"not run: {member}, seed 1, could not be trained"] * 2
        (trained,) = (path.name.split("-")[1] for path in tmp_path.glob("zoo/emotion-*"))
        assert {member, trained} == {"tec", "isear"}

        # The head trains the one that is missing, and a new node joins for the two merges.
        process = start()
        until(lambda: len(list(tmp_path.glob("zoo/emotion-*"))) == 2, log)
        node = cluster.add_node(**NODE)
        until(lambda: len(list(tmp_path.glob("out/*/*/*-seed1-*/regmean_lab.log"))) == 2, log)
        cluster.remove_node(node, allow_graceful=False)
        sweep = end(process)
        assert sweep.status == 0, sweep.output
        assert "the node it was running on is dead" in sweep.output  # and its job is tried again
        assert "2 results, 2 computed now." in sweep.output
        assert set(sweep.results()) == set(basic.results())
        assert_same_results(sweep, basic, "ray")
    finally:
        cluster.shutdown()
    assert not processes_with(environment["RAY_TMPDIR"])


def processes_with(text: str) -> list[str]:
    """Command lines in which a text is, after some seconds for their ends."""
    deadline = time.monotonic() + 30
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().decode(errors="replace")
            except OSError:  # it has ended
                continue
            if text in line and path.parent.name != str(os.getpid()):
                found.append(line)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)

"""Tests with a real scheduler on this machine, which ``make test-slurm`` runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks
from launched_sweeps import METHODS, LaunchedSweep, sweep_arguments
from slurm_cluster import VARIABLE

LONG_TRAINING = "training.epochs=16"
"""A second or more, so that it can be stopped in the middle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where they were not asked for."""
    if os.environ.get(VARIABLE):
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="real schedulers: make test-slurm"))


@pytest.fixture(scope="session", autouse=True)
def end_in_order() -> Iterator[None]:
    """A signal to end the tests stops what they have started, too, as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def arguments(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]) -> list[str]:
    """The command line of the sweep: two members, of which one merge needs statistics."""
    data = write_emotions(tmp_path_factory.mktemp("data"))
    return sweep_arguments(data, LONG_TRAINING, "trainer.threads=1", seeds=(1,))


@pytest.fixture(scope="session")
def basic(forks: Forks, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> LaunchedSweep:
    """The sweep by Hydra's own launcher, in one process."""
    folder = tmp_path_factory.mktemp("basic")
    status, told = forks.run(arguments, folder / "log.txt", folder)
    sweep = LaunchedSweep(folder, status, told, told)
    assert status == 0, told
    assert len(sweep.results()) == len(METHODS)
    return sweep

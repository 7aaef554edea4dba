"""Small sweeps for launchers: what is on their command line, and what they leave behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.results import Result, read_result
from regmean_lab.sweeps.summary import SWEEPS_FOLDER
from regmean_lab.zoo import Zoo

METHODS, MEMBERS = ("simple", "regmean"), ("tec", "isear")


@dataclass(frozen=True)
class LaunchedSweep:
    """What a sweep left behind."""

    folder: Path
    status: int
    output: str
    errors: str

    def results(self) -> dict[tuple[str, int], Result]:
        found = [read_result(path) for path in self.folder.glob("out/*/*/*/result.json") if path.is_file()]
        return {(result.method, result.seed): result for result in found}

    def weights(self, address: str) -> bytes:
        entry = Zoo(self.folder / "zoo").find(address)
        assert entry is not None
        return entry.weights_path.read_bytes()

    def records(self) -> list[dict[str, object]]:
        """Of the last command."""
        sweep = max((self.folder / "out" / SWEEPS_FOLDER).iterdir(), key=lambda path: path.stat().st_mtime)
        return [json.loads(path.read_text()) for path in sorted((sweep / "jobs").iterdir())]


def sweep_arguments(
    data_dir: Path, *overrides: str, methods: tuple[str, ...] = METHODS, seeds: tuple[int, ...] = (1, 2)
) -> list[str]:
    """A command line: two members of pico models, methods and seeds; it writes into the folder where it runs."""
    return [
        *("-m", "suite=emotion", "suite.out_of_domain=[emoint]", "model=pico_bert", f"members=[{','.join(MEMBERS)}]"),
        *("training.epochs=8", "training.learning_rate=0.005", "training.batch_size=4"),
        *("statistics.gram.examples=16", "trainer=cpu", "trainer.progress_bar=false", "logger=none"),
        *(f"paths.data_dir={data_dir}", "paths.zoo_dir=zoo", "paths.output_dir=out"),
        *(f"method={','.join(methods)}", f"seed={','.join(map(str, seeds))}", *overrides),
    ]


def assert_same_results(sweep: LaunchedSweep, basic: LaunchedSweep, launcher: str) -> None:
    """All that is there has the scores of another launcher's sweep, from members with the same weights."""
    wanted = basic.results()
    for job, result in sweep.results().items():
        assert result.scores == wanted[job].scores
        assert result.metrics == wanted[job].metrics
        assert result.zoo == wanted[job].zoo
        for address in result.zoo.values():
            assert sweep.weights(address) == basic.weights(address)
        assert f"hydra/launcher={launcher}" in result.environment["started_as"]
        assert result.environment["started_as"].startswith("python -m regmean_lab -m suite=emotion")


def copy_zoo(basic: LaunchedSweep, folder: Path, *missing: str) -> None:
    """The members of the other sweep, without those of some addresses, which are to be trained."""
    shutil.copytree(basic.folder / "zoo", folder / "zoo")
    for address in missing:
        entry = Zoo(folder / "zoo").find(address)
        assert entry is not None
        shutil.rmtree(entry.path)

"""The commands of docs/selection.md, run from a folder with two csv files and nothing else."""

from __future__ import annotations

import csv
import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from forks import Forks

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "selection.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python -m (regmean_lab .*films.csv.*)$", TEXT, re.M)
SMALL = ("model=pico_bert", "training.epochs=2", "training.learning_rate=0.003", "trainer=cpu", "logger=none")
TRIALS = "hydra.sweeper.n_trials=2"
CHOSEN = re.compile(
    r"method\.(\w+)=([\d.]+) was chosen on dev \(mean score ([\d.]+), the best of 2 trials by tpe, seed 1\)"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of which a fifth have the label that their word does not tell, so that scores differ."""
    made = tmp_path_factory.mktemp("selection")
    generator = random.Random(0)
    for name in ("films", "books"):
        with (made / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for number in range(200):
                label = generator.choice(["bad", "good"])
                told = label if generator.random() < 0.8 else generator.choice(["bad", "good"])
                word = {"bad": "awful", "good": "best"}[told]
                writer.writerow([f"the {name} were {word} {number}", label])
    return made


def run(forks: Forks, folder: Path, command: str, *more: str) -> str:
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    assert forks.wait(forks.start([*shlex.split(command)[1:], *SMALL, *more], log, folder)) == 0, log.read_text()
    return log.read_text()


def results(folder: Path, method: str, split: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("outputs/**/result.json"))]
    return [one for one in found if one["method"] == method and one["configuration"]["evaluate_on"] == split]


def test_what_the_page_says_is_what_happens(forks: Forks, folder: Path) -> None:
    plan, alpha, scaling, blocks = COMMANDS
    told = run(forks, folder, plan)
    assert "1 search of 20 trials each, on dev" in told
    assert "2 to train" in told
    assert not list(folder.glob("zoo/*/training.json"))

    chosen = {}
    for command, method in ((alpha, "regmean"), (scaling, "task_arithmetic")):
        told = run(forks, folder, command, TRIALS)
        match = CHOSEN.search(told)
        assert match is not None, told
        trials, (tested,) = results(folder, method, "dev"), results(folder, method, "test")
        assert len(trials) == 2
        best = max(trials, key=lambda one: float(one["mean_in_domain"]))
        assert float(match[3]) == pytest.approx(best["mean_in_domain"], abs=0.005)
        assert tested["configuration"]["method"][match[1]] == float(match[2])
        assert len(list(folder.glob("zoo/*/training.json"))) == 2, "members were trained again"
        chosen[method] = (f"method.{match[1]}={match[2]}", tested)

    # What was chosen, run by itself, has the very scores on test.
    setting, tested = chosen["regmean"]
    run(forks, folder, f"{alpha.partition(' hydra/sweeper')[0]} {setting}")
    (again,) = [one for one in results(folder, "regmean", "test") if one["selection"] is None]
    assert again["scores"] == tested["scores"]
    assert again["metrics"] == tested["metrics"]

    run(forks, folder, blocks, TRIALS)
    (tested,) = [
        one for one in results(folder, "task_arithmetic", "test") if (one["selection"] or {}).get("sampler") == "cmaes"
    ]
    parts = tested["configuration"]["method"]["parts"]
    assert {part: len(own["weights"]) for part, own in parts.items()} == {"block_0": 2, "block_1": 2}
    assert tested["selection"]["keys"] == ["method.parts.block_0.weights", "method.parts.block_1.weights"]

    told = run(forks, folder, alpha, "hydra.sweeper.n_trials=3")
    assert told.count("found the finished result") >= 2
    assert len(results(folder, "regmean", "dev")) == 3

"""The scripts in examples/, as docs/library.md tells to run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from forks import Forks
from omegaconf import DictConfig, OmegaConf
from wandb.sdk.launch.sweeps import utils as sweep_utils
from wandb_records import finished_run, recorded

from regmean_lab.command.overrides import override_problems
from regmean_lab.config.grids import composing
from regmean_lab.config.schema import settings_of

ROOT = Path(__file__).parents[1]


def test_models_are_merged_from_statistics_without_any_framework() -> None:
    """The merged model beats both members and their mean; no framework was imported."""
    script = ROOT / "examples" / "merge_from_statistics.py"
    code = (
        f"import runpy, sys; runpy.run_path({str(script)!r}, run_name='__main__'); "
        "print(*{'hydra', 'pytorch_lightning', 'transformers', 'datasets', 'wandb', 'omegaconf'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    *lines, loaded = finished.stdout.splitlines()
    errors = {name: float(error) for name, error in (line.split() for line in lines)}
    assert list(errors) == ["left", "right", "simple", "regmean"]
    assert errors["regmean"] < 0.5 * min(errors["left"], errors["right"], errors["simple"])
    assert loaded == ""


def test_the_script_is_the_one_that_the_documentation_shows() -> None:
    """Every line of code in docs/library.md occurs in the script."""
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    script = (ROOT / "examples" / "merge_from_statistics.py").read_text(encoding="utf-8")
    shown = text.partition("```python\n")[2].partition("```")[0]
    assert len(shown.splitlines()) > 10
    assert [line for line in shown.splitlines() if line.strip() and line not in script.splitlines()] == []


def trials_of(sweep: dict[str, Any], values: Mapping[str, float]) -> list[str]:
    """The command that W&B's agent makes of a sweep's configuration for some values, without the interpreter."""
    filled = sweep_utils.create_sweep_command(list(sweep["command"]))
    arguments = {name: {"value": value} for name, value in values.items()}
    variables = sweep_utils.create_sweep_command_args({"args": arguments})
    variables |= {"interpreter": ["python"], "program": [sweep["program"]], "env": ["/usr/bin/env"]}
    parts = [variables[part[2:-1]] if part.startswith("${") else [part] for part in filled]
    words = [word for part in parts for word in part]
    assert words[:4] == ["/usr/bin/env", "python", "-m", "regmean_lab"]
    return words[4:]


def test_trials_of_the_sweep_of_wandb_compose(compose_job: Callable[..., DictConfig]) -> None:
    sweep = yaml.safe_load((ROOT / "examples" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    ends = {"min": 0.25, "max": 0.75}
    for end in ends:
        values = {name: own.get(end, own.get("values", [None])[0]) for name, own in sweep["parameters"].items()}
        overrides = trials_of(sweep, values)
        with composing():
            assert override_problems(overrides, jobs_too=False, multirun=False) == []
        config = compose_job(*overrides)
        settings_of(config)
        for name, value in values.items():
            assert OmegaConf.select(config, name) == value
        assert (config.logger.kind, config.evaluate_on, config.force) == ("wandb", "dev", True)
    assert sweep["metric"] == {"name": "mean_in_domain", "goal": "maximize"}


def test_a_trial_of_wandb_is_one_run_with_the_metric(
    forks: Forks, tmp_path: Path, write_emotions: Callable[[Path], Path]
) -> None:
    """As the agent starts it, which gives the run its name; offline, with pico members that are trained before."""
    sweep = yaml.safe_load((ROOT / "examples" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    trial = trials_of(sweep, {"method.off_diagonal": 0.5, "statistics.gram.examples": 16})
    own = [
        *("suite=emotion", "suite.out_of_domain=[]", "model=pico_bert", "members=[tec,isear]", "training.epochs=1"),
        *("trainer=cpu", f"paths.data_dir={write_emotions(tmp_path / 'data')}", f"paths.zoo_dir={tmp_path / 'zoo'}"),
        *("trainer.progress_bar=false", f"paths.output_dir={tmp_path / 'out'}"),
    ]
    chosen = [word for word in trial if word.partition("=")[0] not in ("experiment", "model", "members")]
    train = ["-m", *own, "method=regmean", "logger=none", "hydra.sweeper.until=train"]
    status, log = forks.run(train, tmp_path / "log")
    assert status == 0, log
    environment = {"WANDB_RUN_ID": "trial7", "WANDB_SWEEP_ID": "sweep7", "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    status, log = forks.run([*own, *chosen], tmp_path / "log", environment=environment)
    if "wandb.errors" in log:
        pytest.skip(f"W&B cannot write an offline run on this machine: {log[-300:]}")
    assert status == 0, log

    (run,) = (tmp_path / "out").rglob("offline-run-*")
    assert run.name.endswith("-trial7")
    (path,) = (tmp_path / "out").rglob("result.json")
    result = json.loads(path.read_text())
    assert result["configuration"]["method"]["off_diagonal"] == 0.5
    assert result["configuration"]["evaluate_on"] == "dev"
    summary = recorded(finished_run(run), "summary")
    assert summary[sweep["metric"]["name"]] == pytest.approx(result["mean_in_domain"])

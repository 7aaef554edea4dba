"""Every command of docs/experiments.md that runs on a pico model, on made-up data in the published layouts."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from regmean_lab.command.overrides import compose_first_job
from regmean_lab.config.grids import values_of
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.schema import settings_of
from regmean_lab.experiment import run

sys.path.insert(0, str(Path(__file__).parent / "suites"))
from entity_files import write_entities
from glue_files import write_task

DOCUMENT = Path(__file__).parents[1] / "docs" / "experiments.md"
COMMANDS = re.findall(r"^    python -m regmean_lab (.*model=pico_.*)$", DOCUMENT.read_text(encoding="utf-8"), re.M)
TABLE = re.findall(r"\| `python -m regmean_lab (.*model=pico_[^`]*)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
PAPER = re.findall(r"^    python -m regmean_lab ((?!debug).*)$", DOCUMENT.read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documented")


@pytest.fixture
def data(folders: Path, write_emotions: Callable[[Path], Path]) -> Path:
    folder = folders / "data"
    if not folder.exists():
        write_emotions(folder)
        write_entities(folder)
        for task in ("rte", "stsb", "mrpc"):
            write_task(folder, task)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_runs(command: str, folders: Path, data: Path, compose_job: Callable[..., Any]) -> None:
    overrides = [text for text in shlex.split(command) if text not in ("-m", "paths.data_dir=DATA")]
    config = compose_job(
        *overrides,
        f"paths.data_dir={data}",
        f"paths.zoo_dir={folders / 'zoo'}",
        f"paths.output_dir={folders / 'outputs'}",
        "trainer=cpu",
        "trainer.progress_bar=false",
        "logger=none",
        f"measure_divergence={str('model=pico_bert' in overrides).lower()}",  # for one of the models
    )
    OmegaConf.set_struct(config, True)
    result, computed = run(config, folders / f"job{COMMANDS.index(command)}", overrides)
    assert computed
    assert len(result.scores["in_domain"]) == len(result.members) >= 2
    scores = [score for domain in result.scores.values() for score in domain.values()]
    assert scores and all(math.isfinite(score) and -100 <= score <= 100 for score in scores)
    assert result.experiment == next(text.split("=")[1] for text in overrides if text.startswith("experiment="))


@pytest.mark.parametrize("command", PAPER)
def test_the_settings_of_the_paper_compose(command: str, compose_job: Callable[..., Any]) -> None:
    """The full commands need weights and data that are not here: their configurations are checked."""
    compose_job()  # registers schemas, resolvers and sweeps
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        parsed = OverridesParser.create().parse_overrides([text for text in shlex.split(command) if text != "-m"])
        models = [text for override in parsed if override.key_or_group == "model" for text in values_of(override)]
        others = [values_of(override)[0] for override in parsed if override.key_or_group != "model"]
        for model in models or ["model=minilm"]:
            config = compose_first_job([*others, model])
            assert len(settings_of(config).members) >= 2


def test_every_experiment_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    names = [path.stem for path in (DOCUMENT.parents[1] / "conf" / "experiment").glob("*.yaml")]
    assert len(COMMANDS) >= 15
    assert len(TABLE) >= 8 and set(TABLE) <= set(COMMANDS)
    assert [name for name in names if f"experiment={name} " not in text] == []
    folder = DOCUMENT.parents[1] / "conf" / "multirun_sweeps"
    sweeps = {path.stem for path in folder.glob("*.yaml")} - {"demo", "mini"}
    tables = DOCUMENT.with_name("reproduce.md").read_text(encoding="utf-8")
    assert [name for name in sorted(sweeps) if f"`make reproduce-{name}`" not in tables] == []

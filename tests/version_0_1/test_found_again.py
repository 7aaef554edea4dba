"""What version 0.1 computed is found by this version: results by their fingerprints, members and statistics by theirs.

``made_by_0_1.tar.xz`` holds a data folder (made-up sentences), a zoo and an output folder that version 0.1 wrote with
the commands that its results record. Members' weights and statistics are whole for the emotion suite only.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

import regmean_lab.training.train
from regmean_lab.config.schema import settings_of
from regmean_lab.experiment import run
from regmean_lab.results import fingerprint, read_result
from regmean_lab.sweeps.plan import make_plan
from regmean_lab.zoo.address import member_address

ARCHIVE = Path(__file__).with_name("made_by_0_1.tar.xz")

RESULTS = [
    f"{folder}/result.json"
    for folder in (
        "emotion/tec+isear/pico_bert-fisher-seed1-7e6222f7a8",
        "emotion/tec+isear/pico_bert-mats-seed1-15f9aef4b2",
        "emotion/tec+isear/pico_bert-regmean-seed1-6d9c38173d",
        "emotion/tec+isear/pico_bert-simple-seed1-cd74d3c6b1",
        "emotion_text/tec+isear/pico_t5-regmean-seed1-3d81b9e6dc",
        "emotion_text/tec+isear/pico_t5-simple-seed1-3e38fa4022",
        "glue/sst2+rte/pico_distilbert-regmean-seed1-62d882e651",
        "glue/sst2+rte/pico_distilbert-simple-seed1-fdeac3eb63",
        "glue_partition/all/pico_distilbert-simple-seed1-6e28fceca2",
        "ner_open/btc_a+btc_b/pico_roberta-regmean-seed1-14d5e6e889",
        "ner_open/btc_a+btc_b/pico_roberta-simple-seed1-06eef103e9",
    )
]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def here(extracted: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `data`, `zoo` and `outputs` as they were left; nothing may be trained."""
    monkeypatch.chdir(extracted)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(regmean_lab.training.train, "train_model", refuse)
    return extracted


def overrides_of(path: Path) -> list[str]:
    """The overrides of the command that a result records."""
    words = shlex.split(read_result(path).environment["command"])
    assert words[:3] == ["python", "-m", "regmean_lab"]
    return words[3:]


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str, here: Path, compose_job: Callable[..., DictConfig]) -> None:
    path = here / "outputs" / name
    overrides = overrides_of(path)
    config = compose_job(*overrides)
    assert fingerprint(settings_of(config).resolved) == read_result(path).fingerprint
    result, computed = run(config, path.parent, overrides)
    assert not computed
    assert result == read_result(path)


def test_results_that_scored_untrained_labels_are_computed_again(
    here: Path, tmp_path: Path, compose_job: Callable[..., DictConfig]
) -> None:
    """Each member was scored out of domain on a label that its data does not annotate: not so any more."""
    (path,) = (here / "outputs" / "emotion" / "tec+isear").glob("pico_bert-individual-seed1-*/result.json")
    shutil.copy(path, tmp_path)
    overrides = overrides_of(path)
    result, computed = run(compose_job(*overrides), tmp_path, overrides)
    assert computed
    assert result is not None and result.fingerprint == read_result(path).fingerprint
    assert result.zoo == read_result(path).zoo


@pytest.mark.parametrize("method", ["simple", "regmean", "fisher", "mats"])
def test_members_and_statistics(
    method: str, here: Path, tmp_path: Path, compose_job: Callable[..., DictConfig]
) -> None:
    (path,) = (here / "outputs" / "emotion" / "tec+isear").glob(f"pico_bert-{method}-seed1-*/result.json")
    before = {file: file.stat().st_mtime_ns for file in (here / "zoo").rglob("*.safetensors")}
    overrides = overrides_of(path)
    result, computed = run(compose_job(*overrides), tmp_path, overrides)
    assert computed  # in another folder, where there is no result
    assert result is not None and result.zoo == read_result(path).zoo
    now = {file: file.stat().st_mtime_ns for file in (here / "zoo").rglob("*.safetensors")}
    # A merge is compared with its members on dev as well, which version 0.1 did not do.
    assert {file: time for file, time in now.items() if file.parent.name != "predictions" or file in before} == before
    assert result.scores["in_domain"] == pytest.approx(read_result(path).scores["in_domain"], abs=1e-6)


def test_addresses(here: Path) -> None:
    entries = [path for path in (here / "zoo").iterdir() if (path / "training.json").is_file()]
    assert len(entries) == 10
    for entry in entries:
        record = json.loads((entry / "training.json").read_text())
        assert entry.name.rpartition("-")[2] == member_address(record["description"]) == record["address"]


@pytest.mark.parametrize("name", [name for name in RESULTS if "regmean" in name])
def test_the_plan_of_a_lost_result(
    name: str, here: Path, tmp_path: Path, compose_job: Callable[..., DictConfig]
) -> None:
    """Where only the result is gone, nothing has to be trained or collected."""
    overrides = [*overrides_of(here / "outputs" / name), f"paths.output_dir={tmp_path}"]
    plan = make_plan([(overrides, compose_job(*overrides))])
    assert len(plan.unfinished) == 1 and len(plan.members) == 2 and len(plan.statistics) == 2
    assert not plan.to_train and not plan.to_collect and not plan.problems and not plan.refused

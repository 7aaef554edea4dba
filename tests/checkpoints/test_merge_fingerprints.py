"""What tells a finished merge from one that would come out otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_folders import save_classifier
from omegaconf import DictConfig
from round_trip import compose_root
from safetensors.torch import load_file, save_file

from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.checkpoints.merge_command import check, plan
from regmean_lab.checkpoints.output import checksums, fingerprint, labelled
from regmean_lab.config.groups import TrainerConfig
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.models.pico import pico_folder
from regmean_lab.statistics import GramStatistics, linear_layers, save_gram
from regmean_lab.utils.files import file_sha256


def of(folders: list[Path], method: MergeMethod, **settings: object) -> str:
    request = MergeRequest([str(folder) for folder in folders], method, **settings)  # type: ignore[arg-type]
    prepared = prepare_merge(request)
    return fingerprint(prepared, {"name": method.name}, checksums(prepared))


def retrain(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: value + 0.5 for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["text", "base"])
def test_a_member_may_have_the_name_of_what_is_read_beside_members(name: str, tmp_path: Path, pico_cache: Path) -> None:
    folders = [tmp_path / name, tmp_path / "b"]
    for seed, folder in enumerate([*folders, tmp_path / "init"]):
        save_classifier(folder, pico_cache, seed)
    (tmp_path / "t.txt").write_text("a river\n" * 8)
    method = RegMeanSequential(text=str(tmp_path / "t.txt"), start="simple") if name == "text" else TaskArithmetic()
    base = None if name == "text" else str(tmp_path / "init")
    before = of(folders, method, base=base)
    assert of(folders, method, base=base) == before
    retrain(folders[0])
    changed = of(folders, method, base=base)
    assert changed != before
    if name == "text":
        (tmp_path / "t.txt").write_text("a village\n" * 8)
    else:
        retrain(tmp_path / "init")
    assert of(folders, method, base=base) not in (before, changed)


def test_precision_tells_merges_apart_that_run_a_model(tmp_path: Path, pico_cache: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate([*folders, tmp_path / "init"]):
        save_classifier(folder, pico_cache, seed)
    (tmp_path / "t.txt").write_text("a river\n" * 8)
    half, reads = TrainerConfig(precision="bf16-mixed"), RegMeanSequential(text=str(tmp_path / "t.txt"), start="simple")
    assert of(folders, reads) != of(folders, reads, trainer=half)
    base = str(tmp_path / "init")
    assert of(folders, TaskArithmetic(), base=base) == of(folders, TaskArithmetic(), base=base, trainer=half)


def test_files_of_one_name_in_an_adapter_and_in_its_base(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "config.json" for folder in ("one", "other", "other/statistics")]
    assert labelled([*paths, paths[0]]) == {
        "config.json": paths[0],
        "other/config.json": paths[1],
        "statistics/config.json": paths[2],
    }


def test_statistics_of_earlier_weights_are_told_by_check_and_plan(
    tmp_path: Path, pico_cache: Path, compose_job: Callable[..., DictConfig]
) -> None:
    compose_job()  # registers resolvers
    folders = [tmp_path / "base", tmp_path / "b"]  # the first as what statistics were once confused with
    for seed, folder in enumerate(folders):
        model = save_classifier(folder, pico_cache, seed)
        grams = {name: torch.eye(layer.in_features) for name, layer in linear_layers(model).items()}
        measured = GramStatistics(grams, {layer: layer for layer in grams}, dict.fromkeys(grams, 100), 10, 1)
        weights = {"model.safetensors": file_sha256(folder / "model.safetensors")}
        (folder / "statistics").mkdir()
        told = {"settings": {}, "collected": {"model": {"weights_sha256": weights}}}
        save_gram(folder / "statistics" / "gram.safetensors", measured, told)
    config = compose_root(
        "merge_checkpoints",
        f"checkpoints=[{','.join(map(str, folders))}]",
        "method=regmean",
        f"base={pico_folder('bert', pico_cache)}",
        f"paths.output_dir={tmp_path / 'outputs'}",
    )
    check(config)
    assert plan(config)
    retrain(folders[0])
    for verb in (check, plan):
        with pytest.raises(ConfigurationError) as caught:
            verb(config)
        (problem,) = caught.value.problems
        assert "gram.safetensors: collected from other weights than those of base; collect it again" in problem

"""Weights of parts of a model, from the command line to the merged model, against loops over state dicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints.checkpoint_folders import save_classifier
from omegaconf import DictConfig, OmegaConf
from round_trip import compose_root
from safetensors.torch import load_file

from regmean_lab import experiment
from regmean_lab.checkpoints.merge_command import check as check_merge
from regmean_lab.checkpoints.merge_command import run as run_merge
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.evaluation.checks import check
from regmean_lab.results import fingerprint
from regmean_lab.zoo import Zoo

PARTS = [
    "method.parts.block_0.weights=[0.3,0.7]",
    "method.parts.block_1.weights=[0.9,0.1]",
    "method.parts.embeddings.weights=[0,1]",
]


def looped(first: Path, second: Path) -> dict[str, torch.Tensor]:
    """What `PARTS` say, in float64."""
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    expected = {}
    for name in one:
        share = 0.5
        for piece, own in ((".layer.0.", 0.3), (".layer.1.", 0.9), (".embeddings.", 0.0)):
            share = own if piece in name else share
        expected[name] = (share * one[name].double() + (1 - share) * other[name].double()).float()
    return expected


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert any(".layer.1." in name for name in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7, msg=name)


def test_the_main_job_merges_each_block_with_its_own_weights(
    made_up_sentiment: Path, compose_job: Callable[..., DictConfig], tmp_path: Path
) -> None:
    overrides = [
        *("suite=sentiment", "model=pico_bert", "members=[tweets,nyt]", "method=simple", "save_merged=true", *PARTS),
        *("trainer=cpu", "trainer.progress_bar=false", "logger=none", "training.epochs=1", "evaluate_on=dev"),
        *(f"paths.data_dir={made_up_sentiment}", f"paths.zoo_dir={tmp_path / 'zoo'}", "training.learning_rate=1e-3"),
    ]
    result, _ = experiment.run(compose_job(*overrides), tmp_path / "job", overrides)
    first, second = (Zoo(tmp_path / "zoo").find(result.zoo[name]).path for name in ("tweets", "nyt"))
    equal(load_file(tmp_path / "job" / "merged" / "model.safetensors"), looped(first, second))
    with pytest.raises(ConfigurationError, match=r"method\.parts\.block_7: the model has no such block; it has block"):
        check(compose_job(*overrides, "method.parts.block_7.weights=[1,2]"))
    with pytest.raises(ConfigurationError, match=r"method\.parts\.block_0\.weights: 3 numbers for 2 members"):
        check(compose_job(*overrides, "method.parts.block_0.weights=[1,2,3]"))


def test_merging_checkpoints_takes_the_same_settings(
    compose_job: Callable[..., DictConfig], pico_cache: Path, tmp_path: Path
) -> None:
    compose_job()  # registers resolvers
    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        save_classifier(folder, pico_cache, seed)
    overrides = [f"checkpoints=[{folders[0]},{folders[1]}]", "method=simple", f"output={tmp_path / 'merged'}"]
    run_merge(compose_root("merge_checkpoints", *overrides, *PARTS), tmp_path / "job")
    equal(load_file(tmp_path / "merged" / "model.safetensors"), looped(*folders))
    with pytest.raises(ConfigurationError, match=r"method\.parts\.block_7: no module or parameter matches") as caught:
        check_merge(compose_root("merge_checkpoints", *overrides, "method.parts.block_7.weights=[1,2]"))
    assert len(caught.value.problems) == 1


def test_results_without_parts_are_found_again(compose_job: Callable[..., DictConfig]) -> None:
    resolved = dict(OmegaConf.to_container(compose_job("method=ties"), resolve=True))
    before = {**resolved, "method": {key: value for key, value in resolved["method"].items() if key != "parts"}}
    assert "parts" in resolved["method"]
    assert fingerprint(resolved) == fingerprint(before)
    other = OmegaConf.to_container(compose_job("method=ties", "method.parts.block_0.scaling=0.5"), resolve=True)
    assert fingerprint(other) != fingerprint(before)

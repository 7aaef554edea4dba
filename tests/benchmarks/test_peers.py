"""What the benchmark beside other programs computes of its measurements."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import peers
from benchmarks.figure import Setting
from benchmarks.memory import OwnMemory
from benchmarks.merge_memory import PICO_PARAMETERS
from regmean_lab.checkpoints.merge import merged_tensors, prepare_merge
from regmean_lab.checkpoints.recipe.reading import read_recipe
from regmean_lab.checkpoints.recipe.request import request_of_recipe


def test_without_mergekit_nothing_is_measured_and_the_note_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(peers.ENVIRONMENT, raising=False)
    (figure,) = peers.figures(Setting(torch.device("cpu"), pico=True))
    assert math.isnan(figure.value)
    assert "pip install torch==2.13.0 mergekit==0.1.5" in figure.note


def test_a_method_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.ENVIRONMENT, "/nowhere")
    run = {"start": 1.0, "processor": 1.0, "seconds": 1.0, "peak": 1, "own": 1, "versions": {}}

    def fail(self: peers.Peers, recipe: Path, *_: object) -> peers.Run:
        if "merge_method: sce" in recipe.read_text(encoding="utf-8"):
            raise RuntimeError("Traceback\n  of many lines\nKeyError: 'sce'")
        return run

    monkeypatch.setattr(peers.Peers, "run", fail)
    monkeypatch.setattr(peers.Peers, "_equality", lambda self, name: peers.unmeasured(name, 1.0, "not run"))
    figures = peers.figures(Setting(torch.device("cpu"), repeats=1, pico=True))
    (failed,) = [figure for figure in figures if math.isnan(figure.value) and "sce" in figure.name]
    assert failed.note == "not measured: KeyError: 'sce'"
    assert len([figure for figure in figures if figure.value == 1]) == 4 * (len(peers.RECIPES) - 1)


def test_methods_that_do_little_are_also_measured_on_models_that_are_large() -> None:
    setting = Setting(torch.device("cpu"))
    assert peers.sizes(setting) == [
        (setting.merge_parameters, tuple(peers.RECIPES)),
        (peers.LARGE_PARAMETERS, peers.LARGE_METHODS),
    ]
    assert set(peers.LARGE_METHODS) < set(peers.RECIPES)
    larger = Setting(torch.device("cpu"), merge_parameters=peers.LARGE_PARAMETERS)
    assert peers.sizes(larger) == [(peers.LARGE_PARAMETERS, tuple(peers.RECIPES))]


@pytest.mark.parametrize("name", peers.RECIPES)
def test_a_recipe_of_the_benchmark_is_read(name: str, tmp_path: Path) -> None:
    models = peers.write_models(tmp_path, PICO_PARAMETERS)
    recipe = peers.Peers(tmp_path, tmp_path, models)._recipe(name, {"dtype": "bfloat16"})
    prepared = prepare_merge(request_of_recipe(read_recipe(recipe)))
    merged = dict(merged_tensors(prepared))
    base, one, two = (load_file(folder / "model.safetensors") for folder in models)
    assert set(merged) == set(base)
    key = "model.layers.3.mlp.up_proj.weight"
    assert not any(torch.equal(merged[key], part[key].float()) for part in (base, one, two))
    spread = float((one[key].float() - base[key].float()).std() / base[key].float().std())
    assert spread == pytest.approx(peers.CHANGE, rel=0.1)


def test_the_start_counts_and_the_note_tells_the_merge_alone() -> None:
    ours = [{"start": 1.0, "processor": 1.0, "seconds": 3.0}] * 2
    theirs = [{"start": 2.0, "processor": 2.0, "seconds": 6.0}, {"start": 4.0, "processor": 6.0, "seconds": 6.0}]
    figure = peers._time("x", ours, theirs)
    assert (figure.low, figure.high) == (0.2, 0.5)
    assert "imports 1.0 s / 3.0 s; the merge alone 0.33: 1.0 s / 4.0 s of processors, 0.50" in figure.note


def test_outputs_are_compared_in_last_digits(tmp_path: Path) -> None:
    one = {"a": torch.tensor([1.0, 2.0, 3.0]).bfloat16(), "b": torch.zeros(2).bfloat16()}
    other = {**one, "a": torch.tensor([1.0, 2.0, 3.0 + 2 * 3.0 * 2**-7]).bfloat16()}
    for name, tensors in (("ours", other), ("theirs", one)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    figure = peers.Peers(tmp_path, tmp_path, [tmp_path])._equality("x")
    assert figure.value == pytest.approx(2, rel=0.2)
    assert figure.note.startswith("of 5 elements 1 differ")


def test_own_memory_is_seen_while_it_is_used() -> None:
    with OwnMemory() as memory:
        torch.ones(50_000_000)
    with OwnMemory() as later:
        pass
    assert memory.most > later.most + 100_000_000 or memory.most == 0

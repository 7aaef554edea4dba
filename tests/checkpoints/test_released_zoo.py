"""``regmean-lab zoo import``: folders laid out as the released code's zoo, written here with torch.save."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from released_folders import released, save_statistics
from safetensors.torch import load_file

import regmean_lab.training.train
from regmean_lab import experiment
from regmean_lab.__main__ import main
from regmean_lab.callbacks.requests import published_path
from regmean_lab.checkpoints import released_zoo
from regmean_lab.models.convert_pickled import ConversionError, convert, convert_file
from regmean_lab.prepare.base import PrepareError
from regmean_lab.prepare.model import convert_apart
from regmean_lab.suites.emotion import LABELS
from regmean_lab.sweeps.plan import make_plan
from regmean_lab.sweeps.plan_text import plan_text
from regmean_lab.zoo import Zoo


def convert_here(source: Path, target: Path) -> None:
    try:
        (convert_file if source.is_file() else convert)(source, target)
    except ConversionError as error:
        raise PrepareError(f"not converted: {error}") from None


@pytest.fixture
def zoo(tmp_path: Path, write_emotions: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    write_emotions(tmp_path / "data")
    monkeypatch.setattr(released_zoo, "convert_apart", convert_here)  # test_pickled_checkpoints.py has the processes

    def run(*arguments: str) -> int:
        paths = [f"paths.data_dir={tmp_path / 'data'}", f"paths.zoo_dir={tmp_path / 'zoo'}", "trainer=cpu"]
        common = ["suite=emotion", "members=[tec,isear]", "suite.out_of_domain=[]", "model=pico_bert"]
        given = ["regmean-lab", "zoo", "import", *arguments, *paths, *common, "trainer.progress_bar=false"]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


def test_released_models_are_members_with_their_statistics(
    zoo: Callable[..., int],
    tmp_path: Path,
    pico_cache: Path,
    compose_job: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "released"
    released(root, "tec", "1650000000.5", pico_cache, 1, version=0)
    states = {
        "tec": released(root, "tec", "1660000000.25", pico_cache, 1, version=0),
        "isear": released(root, "isear", "1660000001", pico_cache, 1, version=0),
    }
    released(root, "tec", "1670000000", pico_cache, 1, version=1)  # of another filter
    grams = save_statistics(root, "tec", "1660000000.25", states["tec"])
    save_statistics(root, "isear", "1660000001", states["isear"])
    convert_apart(root / "isear" / "bert-base" / "1660000001" / "gram_v0.pkl", tmp_path / "apart.safetensors")
    assert "meta_info" not in load_file(tmp_path / "apart.safetensors")
    choice = ("zoo_filter.version=0", "architecture=bert-base", "fisher=batch_hard", "fidelity=published")
    assert zoo(str(root), *choice) == 0
    entries = {entry.description["corpus"]: entry for entry in Zoo(tmp_path / "zoo").entries()}
    assert set(entries) == {"tec", "isear"}
    for corpus, entry in entries.items():
        assert entry.verify() == []
        stored = load_file(entry.weights_path)
        assert all(torch.equal(stored[name], states[corpus][name]) for name in stored)
        assert json.loads((entry.path / "config.json").read_text())["label2id"] == {
            name: number for number, name in enumerate(LABELS)
        }
    brought = load_file(published_path(entries["tec"].path, "gram"))
    assert brought.keys() == grams.keys()
    assert all(torch.equal(brought[name], grams[name]) for name in grams)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("trained or measured although it is there")

    monkeypatch.setattr(regmean_lab.training.train, "train_model", refuse)
    overrides = [
        *("suite=emotion", "members=[tec,isear]", "suite.out_of_domain=[]", "model=pico_bert", "trainer=cpu"),
        *("trainer.progress_bar=false", "logger=none", f"paths.data_dir={tmp_path / 'data'}"),
        *(f"paths.zoo_dir={tmp_path / 'zoo'}", f"paths.output_dir={tmp_path / 'outputs'}", "method=regmean"),
    ]
    published = compose_job(*overrides, "fidelity=published")
    assert "2 found, 0 to collect" in plan_text(make_plan([([], published)]), None)
    result, _ = experiment.run(published, tmp_path / "job", [])
    assert result.zoo == {name: entry.address for name, entry in entries.items()}
    real_tokens = ("statistics.gram.count_padding=false", "statistics.gram.extra_rows=false")
    sound = compose_job(*overrides, "fidelity=published", *real_tokens)
    assert "0 found, 2 to collect" in plan_text(make_plan([([], sound)]), None)
    capsys.readouterr()
    assert zoo(str(root), *choice) == 0  # all is there
    assert len(capsys.readouterr().out.split()) == 2


class Dangerous:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("run",)


def test_what_cannot_be_read_or_does_not_fit_is_listed_together(
    zoo: Callable[..., int], tmp_path: Path, pico_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "released"
    released(root, "tec", "1660000000", pico_cache, 1)
    released(root, "isear", "1660000000", pico_cache, 1)
    torch.save({"w": Dangerous()}, root / "isear" / "bert-base" / "1660000000" / "pytorch_model.bin")
    released(root, "nowhere", "1660000000", pico_cache, 1)
    (root / "crowdflower" / "bert-base" / "1660000000").mkdir(parents=True)
    (root / "tec" / "bert-base" / "1660000001").mkdir()
    (root / "tec" / "bert-base" / "1660000001" / "model_config.json").write_text("{")
    assert zoo(str(root)) == 1
    out, told = capsys.readouterr()
    assert [entry.description["corpus"] for entry in Zoo(tmp_path / "zoo").entries()] == ["tec"]
    assert "emotion-tec" in out
    assert "isear/bert-base/1660000000: not converted:" in told and "is not loaded" in told
    assert "suite emotion has no corpus 'nowhere'" in told
    assert "crowdflower/bert-base/1660000000: no weights there" in told
    assert "model_config.json: cannot be read" in told
    assert zoo(str(tmp_path / "data"), "fisher=true") == 2
    assert "fisher: expected batch_hard or batch_loss" in capsys.readouterr().err
    assert zoo(str(tmp_path / "data")) == 2
    assert "no model there; expected DATASET/ARCHITECTURE/TIME/" in capsys.readouterr().err

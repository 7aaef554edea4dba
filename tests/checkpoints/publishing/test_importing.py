"""Gram matrices that another program has measured: ``regmean-lab collect matrices=gram.pkl``."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import merge_into, save_classifier, save_decoder, tensors_of
from omegaconf import DictConfig
from torch import Tensor, nn

from regmean_lab.callbacks.requests import StatisticsRequest
from regmean_lab.checkpoints.collect_command import check, run
from regmean_lab.checkpoints.publishing import imported
from regmean_lab.checkpoints.publishing.layers import input_widths
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.merging.regmean import RegMean
from regmean_lab.models.convert_pickled import ConversionError, convert_each
from regmean_lab.prepare.base import PrepareError
from regmean_lab.statistics import GramConfig, GramFile, StatisticsError, linear_layers

Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions take no process of their own, which takes seconds to start, but in one test."""

    def convert(source: Path, target: Path) -> None:
        try:
            convert_each(source, target)
        except ConversionError as error:
            raise PrepareError(f"not converted: {error}") from None

    if "apart" not in request.node.name:
        monkeypatch.setattr(imported, "convert_apart", convert)


def grams(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A matrix of each linear layer, of inputs that query, key and value share, as in a transformer."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, module in linear_layers(model).items():
        if name.endswith((".key", ".value")):
            found[name] = found[name.rpartition(".")[0] + ".query"].clone()
            continue
        width = input_widths(model)[name]
        rows = torch.randn(3 * width, width, generator=generator)
        found[name] = (rows.T @ rows / len(rows)).to(dtype)
        assert module is not None
    return found


def dump(path: Path, content: object) -> Path:
    with path.open("wb") as file:
        pickle.dump(content, file)
    return path


def faults(compose: Compose, folder: Path, path: Path, *more: str) -> str:
    with pytest.raises(StatisticsError) as raised:
        run(compose(f"checkpoint={folder}", f"matrices={path}", *more), folder.parent / "job")
    assert not (folder / "statistics").exists() or not list((folder / "statistics").iterdir())
    assert [one.name for one in folder.iterdir() if one.name.startswith(".")] == []
    return str(raised.value)


def problems(config: DictConfig) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        check(config)
    return raised.value.problems


@pytest.mark.parametrize(("save", "form"), [("pickle", "packed"), ("torch", "full")])
def test_matrices_are_published_as_they_are(
    tmp_path: Path, pico_cache: Path, compose: Compose, save: str, form: str
) -> None:
    model = save_classifier(tmp_path / "mine", pico_cache, 1)
    content, path = grams(model), tmp_path / "gram.pkl"
    dump(path, content) if save == "pickle" else torch.save(content, path)
    config = compose(f"checkpoint={tmp_path / 'mine'}", f"matrices={path}", f"form={form}", "rows=9000")
    check(config)
    run(config, tmp_path / "job")
    with GramFile(tmp_path / "mine" / "statistics" / "gram.safetensors") as file:
        assert file.layers == list(linear_layers(model))
        assert file.form == form
        for layer, matrix in content.items():
            torch.testing.assert_close(file.matrix(layer), (matrix + matrix.T) / 2, rtol=0, atol=0)
        assert file.shared["bert.encoder.layer.0.attention.self.value"] == "bert.encoder.layer.0.attention.self.query"
        assert len(set(file.shared.values())) == len(content) - 4
        assert set(file.rows.values()) == {9000}
        told = file.metadata
    assert told["collected"]["command"].endswith(
        f"checkpoint=mine matrices=gram.pkl rows=9000{'' if form == 'packed' else ' form=full'}"
    )
    assert told["settings"]["imported"]["file"] == "gram.pkl"
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "matrices that another program has measured, from `gram.pkl` (SHA-256" in card
    assert "| not recorded | 9000 |" in card
    assert "rows for each column" in card
    assert str(tmp_path) not in card
    record = json.loads((tmp_path / "job" / "collection.json").read_text())
    assert record["done"] == {"gram": "converted"}
    run(config, tmp_path / "job")
    assert json.loads((tmp_path / "job" / "collection.json").read_text())["done"] == {"gram": "found"}
    content["classifier"] *= 2
    dump(path, content)
    run(config, tmp_path / "job")
    assert json.loads((tmp_path / "job" / "collection.json").read_text())["done"] == {"gram": "converted"}


def test_models_are_merged_by_them(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    """RegMean's closed form, from the pickles."""
    matrices = []
    for number, name in enumerate(("one", "two")):
        model = save_decoder(tmp_path / name, pico_cache, number)
        matrices.append(grams(model, number))
        run(
            compose(f"checkpoint={tmp_path / name}", f"matrices={dump(tmp_path / 'gram.pkl', matrices[-1])}"),
            tmp_path / "job",
        )
        card = (tmp_path / name / "README.md").read_text()
        assert "| not recorded | not recorded |" in card
        assert "rows for each column" not in card
    merged = tensors_of(merge_into(tmp_path / "out", [tmp_path / "one", tmp_path / "two"], RegMean(off_diagonal=1.0)))
    layer = "transformer.h.1.mlp.c_fc"  # a Conv1D: [in, out]
    one, two = (tensors_of(tmp_path / name)[f"{layer}.weight"].double() for name in ("one", "two"))
    first, second = (one_of[layer].double() for one_of in matrices)
    expected = torch.linalg.solve(first + second, first @ one + second @ two)
    torch.testing.assert_close(merged[f"{layer}.weight"].double(), expected, rtol=1e-4, atol=1e-5)


def test_names_and_dtypes_that_others_use(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    model = save_classifier(tmp_path / "mine", pico_cache, 1)
    content = grams(model, dtype=torch.bfloat16)
    renamed = {
        f"module.{name}" if number % 2 else f"{name}.weight": value
        for number, (name, value) in enumerate(content.items())
    }
    path = dump(tmp_path / "gram.pkl", {**renamed, "meta_info": {"conv1d": []}})
    run(compose(f"checkpoint={tmp_path / 'mine'}", f"matrices={path}", "card=false"), tmp_path / "job")
    with GramFile(tmp_path / "mine" / "statistics" / "gram.safetensors") as file:
        assert file.layers == list(content)
        value = content["bert.pooler.dense"].float()
        torch.testing.assert_close(file.matrix("bert.pooler.dense"), (value + value.T) / 2)


def test_everything_that_is_wrong_with_a_file_is_named(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    folder = tmp_path / "mine"
    model = save_classifier(folder, pico_cache, 1)
    content = grams(model)
    prefix = "bert.encoder.layer.0."
    content["bert.encoder.layer.7.output.dense"] = torch.eye(3)
    content[f"{prefix}attention.self.query"] = torch.eye(5)
    content[f"{prefix}attention.self.key"] = torch.ones(3)
    content[f"{prefix}attention.output.dense"][3, 1] = float("nan")
    content[f"{prefix}intermediate.dense"][3, 1] += 1
    content[f"{prefix}output.dense"] = content[f"{prefix}output.dense"].long()
    content["bert.pooler.dense"][0, 0] = -1
    content["module.classifier"] = content["classifier"].clone()
    del content["bert.encoder.layer.1.output.dense"]
    told = faults(compose, folder, dump(tmp_path / "gram.pkl", content))
    width = model.config.hidden_size
    for line in (
        "bert.encoder.layer.7.output.dense: the model has no such linear layer, but bert.encoder.layer.",
        f"query: of size 5 × 5, and the layer has {width} inputs: expected {width} × {width}",
        f"key: of size 3, and the layer has {width} inputs",
        "attention.output.dense: NaN or infinity in it",
        "intermediate.dense: it is not symmetric: entry ",
        "layer.0.output.dense: its numbers are torch.int64",
        "bert.pooler.dense: a Gram matrix has no negative number on its diagonal",
        "classifier: there are two matrices for it",
        "nothing for bert.encoder.layer.1.output.dense; if they are to be averaged, leave them out: exclude_layers=[",
    ):
        assert line in told, line
    assert len(told.splitlines()) == 10


def test_jobs_take_them_where_padding_counts_alike(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    folder = tmp_path / "mine"
    path = dump(tmp_path / "gram.pkl", grams(save_classifier(folder, pico_cache, 1)))
    for counted in (True, False):
        told = f"statistics.gram.count_padding={str(counted).lower()}"
        run(compose(f"checkpoint={folder}", f"matrices={path}", told), tmp_path / "job")
        for wanted in (True, False):
            request = StatisticsRequest("gram", GramConfig(count_padding=wanted), 16, 0, "32-true")
            assert request.is_served_by(folder / "statistics" / "gram.safetensors") == (wanted == counted)
        assert f"count_padding {'yes' if counted else 'no'}" in (folder / "README.md").read_text()


def test_layers_can_be_left_out(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    model = save_classifier(tmp_path / "mine", pico_cache, 1)
    content = grams(model)
    del content["classifier"]
    path = dump(tmp_path / "gram.pkl", content)
    overrides = [f"checkpoint={tmp_path / 'mine'}", f"matrices={path}"]
    run(compose(*overrides, "exclude_layers=[classifier]"), tmp_path / "job")
    assert "method.exclude_layers=[classifier]" in (tmp_path / "mine" / "README.md").read_text()
    with pytest.raises(ConfigurationError, match="no linear layer matches nothing"):
        run(compose(*overrides, "exclude_layers=[nothing]"), tmp_path / "job")


class Trap:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_is_not_run_apart(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    folder, sprung = tmp_path / "mine", tmp_path / "sprung"
    content = grams(save_classifier(folder, pico_cache, 1))
    told = faults(compose, folder, dump(tmp_path / "gram.pkl", {**content, "more": Trap(sprung)}))
    assert "gram.pkl: holds something else than plain containers and tensors (posix.mkdir), and is not loaded" in told
    torch.save({**content, "more": Trap(sprung)}, tmp_path / "gram.pkl")
    assert "is not a file of plain tensors" in faults(compose, folder, tmp_path / "gram.pkl")
    assert not sprung.exists()
    run(compose(f"checkpoint={folder}", f"matrices={dump(tmp_path / 'gram.pkl', content)}"), tmp_path / "job")
    assert (folder / "statistics" / "gram.safetensors").is_file()


def test_other_objects_in_the_file_are_named(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    folder = tmp_path / "mine"
    content = grams(save_classifier(folder, pico_cache, 1))
    told = faults(compose, folder, dump(tmp_path / "gram.pkl", {"model": content}))
    assert "model (dict) is something else" in told
    told = faults(compose, folder, dump(tmp_path / "gram.pkl", {"arrays": content["classifier"].numpy()}))
    assert "numpy" in told
    (tmp_path / "gram.pkl").write_bytes(b"")
    assert "is no pickle, or cut off" in faults(compose, folder, tmp_path / "gram.pkl")


def test_few_rows_are_refused_where_they_are_told(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    folder = tmp_path / "mine"
    path = dump(tmp_path / "gram.pkl", grams(save_classifier(folder, pico_cache, 1)))
    assert "10 rows for" in faults(compose, folder, path, "rows=10")
    run(compose(f"checkpoint={folder}", f"matrices={path}", "rows=10", "allow_few_rows=true"), tmp_path / "job")


def test_what_does_not_go_together_is_told(tmp_path: Path, pico_cache: Path, compose: Compose) -> None:
    save_classifier(tmp_path / "mine", pico_cache, 1)
    (tmp_path / "texts.txt").write_text("some words\n")
    model = f"checkpoint={tmp_path / 'mine'}"
    found = problems(
        compose(
            model,
            f"matrices={tmp_path / 'none.pkl'}",
            f"data={tmp_path / 'texts.txt'}",
            "text=x",
            "kinds=[fisher]",
            "rows=0",
        )
    )
    assert found[0].startswith("matrices: ") and found[0].endswith("none.pkl: no such file")
    assert "data: matrices are there already, and nothing is read; leave out data, text" in found
    assert "kinds: matrices are Gram matrices; expected [gram], got ['fisher']" in found
    assert "rows: expected at least 1, got 0" in found
    assert problems(compose(model, f"data={tmp_path / 'texts.txt'}", "rows=3")) == [
        "rows: is for matrices=FILE; of data they are counted"
    ]
    assert problems(compose(model)) == ["data: required, but not given"]

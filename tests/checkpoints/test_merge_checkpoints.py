"""`experiment=merge_checkpoints`: configuration, and the same merge as inside an experiment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from round_trip import compose_root, publish_and_merge
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from regmean_lab import experiment
from regmean_lab.checkpoints.merge_command import check, run
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.pico import pico_folder
from regmean_lab.zoo import Zoo

MEMBERS = ("tec", "isear")


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    compose_job()  # registers resolvers

    def compose_merge(*overrides: str) -> DictConfig:
        return compose_root("merge_checkpoints", *overrides, f"paths.output_dir={tmp_path / 'outputs'}")

    return compose_merge


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, write_emotions: Callable[[Path], Path]) -> Path:
    """Emotion data whose members annotate every emotion, and a zoo."""
    root = tmp_path_factory.mktemp("merge")
    fully_annotated(write_emotions(root / "data"))
    return root


def fully_annotated(data: Path) -> Path:
    for path in data.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["emotions"] = {name: value or 0.0 for name, value in row["emotions"].items()}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


WEIGHTED = "method.gram=weighted", "statistics.weighted_gram.examples=32"
FOLLOWED = ("method.followed_by=[svc,{lines:{alpha:0.3}}]",)


@pytest.mark.parametrize(
    ("method", "kind", "more"),
    [
        ("regmean", "gram", ()),
        ("regmean", "weighted_gram", WEIGHTED),
        ("regmean", "gram", FOLLOWED),
        ("fisher", "fisher", ()),
        ("task_arithmetic", None, ()),
        ("actmat", None, ()),
    ],
)
def test_gives_what_the_experiment_gives(
    workspace: Path,
    tmp_path: Path,
    compose_job: Callable[..., DictConfig],
    compose: Callable[..., DictConfig],
    method: str,
    kind: str | None,
    more: tuple[str, ...],
) -> None:
    """Members and statistics of an experiment, published as folders, merge to its very bits, without its data."""
    overrides = [
        *("suite=emotion", "suite.out_of_domain=[emoint]", "model=pico_bert", f"members=[{','.join(MEMBERS)}]"),
        *(
            "trainer=cpu",
            "trainer.progress_bar=false",
            "logger=none",
            "training.epochs=1",
            "training.learning_rate=1e-3",
        ),
        *(
            "statistics.gram.examples=32",
            "statistics.fisher.examples=16",
            f"method={method}",
            "save_merged=true",
            *more,
        ),
        *(f"paths.data_dir={workspace / 'data'}", f"paths.zoo_dir={workspace / 'zoo'}"),
    ]
    result, _ = experiment.run(compose_job(*overrides), tmp_path / "job", overrides)
    assert result is not None
    folders = []
    for member in MEMBERS:
        entry = Zoo(workspace / "zoo").find(result.zoo[member])
        assert entry is not None
        folders.append(tmp_path / member)
        shutil.copytree(entry.path, folders[-1], ignore=shutil.ignore_patterns("statistics", "training.json"))
        for path in entry.statistics_files() if kind is not None else []:
            if path.name.startswith(f"{kind}-"):
                (folders[-1] / "statistics").mkdir()
                shutil.copyfile(path, folders[-1] / "statistics" / f"{kind}.safetensors")
    base = f"base={workspace / 'zoo' / '.models' / 'pico-bert-2'}"
    chosen = [f"checkpoints=[{','.join(map(str, folders))}]", f"method={method}", f"output={tmp_path / 'merged'}"]
    settings = [part for part in more if part.startswith("method.")]
    chosen += [*settings, *([base] if kind is None or more == FOLLOWED else [])]
    config = compose(*chosen)
    check(config)
    run(config, tmp_path / "merge")
    ours, theirs = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", tmp_path / "job/merged")
    )
    assert set(ours) == set(theirs)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert any(not torch.equal(theirs[name], load_file(folders[0] / "model.safetensors")[name]) for name in theirs)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert model.config.id2label == AutoConfig.from_pretrained(folders[0]).id2label

    def written() -> int:
        return (tmp_path / "merged" / "merge.json").stat().st_mtime_ns

    before = written()
    run(config, tmp_path / "merge")
    assert written() == before
    run(compose(*chosen, "force=true"), tmp_path / "merge")
    assert written() != before


def problems(config: DictConfig) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        check(config)
    return caught.value.problems


def test_all_values_that_make_no_sense_are_told_at_once(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    found = problems(
        compose(
            f"checkpoints=[{tmp_path / 'nowhere'}]",
            "method=simple",
            "method.coefficients=[0.5,0.5]",
            "method.label_head=row_mean",
            *("heads=both", "dtype=int8", "max_shard_size=large", f"output={tmp_path / 'there'}"),
            "trainer.precision=8",
        )
    )
    keys = [problem.split(":")[0] for problem in found]
    assert {"heads", "dtype", "max_shard_size", "output", "trainer.precision", "method.coefficients"} <= set(keys)
    assert "method.label_head" in keys
    assert "checkpoints: simple merges two or more, got 1" in found
    assert any("nowhere" in problem for problem in found)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=individual"], "individual merges no weights"),
        (["method=simple", "method.keep_layers=[classifier]"], "only heads=keep has a place for them"),
    ],
)
def test_methods_that_make_no_folder(
    compose: Callable[..., DictConfig], overrides: list[str], expected: str, tmp_path: Path
) -> None:
    found = problems(compose(f"checkpoints=[{tmp_path},{tmp_path}]", *overrides))
    assert any(expected in problem for problem in found)


def test_checkpoints_are_required(compose: Callable[..., DictConfig]) -> None:
    assert problems(compose("method=simple")) == ["checkpoints: required, but not given"]


@pytest.mark.parametrize(("method", "kind"), [("regmean", "gram"), ("fisher", "fisher")])
def test_owners_publish_delete_their_data_and_a_stranger_merges(
    made_up_sentiment: Path, compose_job: Callable[..., DictConfig], method: str, kind: str
) -> None:
    """What owners measured on their texts merges to the very bits of the experiment that had all data."""
    overrides = ["suite=sentiment", "model=pico_bert", "suite.train_examples=40", "suite.dev_examples=100"]
    overrides += ["suite.test_examples=30", "training.epochs=1", f"method={method}"]
    _, ours, theirs = publish_and_merge(
        made_up_sentiment.parent,
        ("tweets", "nyt"),
        compose_job,
        overrides,
        kind,
        collecting=["minimum_rows_per_column=1"],
    )
    assert set(theirs) == set(ours)
    assert [name for name in ours if not torch.equal(theirs[name], ours[name])] == []


def test_an_output_that_is_one_of_the_checkpoints_is_refused(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path
) -> None:
    """Also where a merge wrote it, or the folder around it, which could be replaced otherwise."""
    for name in ("one", "around/two"):
        shutil.copytree(pico_folder("bert", pico_cache), tmp_path / name)
    for folder in (tmp_path / "one", tmp_path / "around"):
        (folder / "merge.json").write_text("{}")
        listed = f"checkpoints=[{tmp_path / 'one'},{tmp_path / 'around/two'}]"
        (problem,) = problems(compose(listed, "method=simple", f"output={folder}"))
        assert problem.startswith(f"output: {folder} is the folder of {tmp_path}")


def test_a_name_with_a_comma_is_told_how_to_write(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    (tmp_path / "model,v2").mkdir()
    found = problems(compose(f"checkpoints=[{tmp_path / 'model,v2'}]", "method=simple"))
    assert any(problem.endswith(f"in quotes: \"checkpoints=['{tmp_path / 'model,v2'}',…]\"") for problem in found)

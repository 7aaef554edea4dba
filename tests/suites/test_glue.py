from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from glue_files import COLUMNS, made_up_rows, row, write_rows, write_task

from regmean_lab.suites import DataError, MissingDataError, glue_data
from regmean_lab.suites.base import Example
from regmean_lab.suites.corpora import CorpusSettings
from regmean_lab.suites.glue import GlueSuite

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
TASKS = ("cola", "sst2", "mrpc", "stsb", "mnli", "qnli", "qqp", "rte", "wnli")
# What the hub's dataset calls its labels, in the order of their ids.
LABELS = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "qqp": ("not_duplicate", "duplicate"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
}
COUNTS = {"mrpc": (4076, 1725), "rte": (2490, 277), "sst2": (6920, 872), "stsb": (5749, 1500)}


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and an empty cache."""
    cache = tmp_path / "huggingface"
    monkeypatch.setattr(glue_data, "_unreachable", lambda: "no network")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    return cache


def suite(data_dir: Path, **settings: Any) -> GlueSuite:
    return GlueSuite(data_dir, CorpusSettings(**settings))


def fill_cache(cache: Path, folder: Path, task: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    """What a download of one task from the hub leaves in the cache of ``datasets``."""
    files = {}
    for split, entries in rows.items():
        files[split] = str(folder / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    builder = datasets.load_dataset_builder("json", data_files=files, cache_dir=str(folder / "build"))
    builder.download_and_prepare()
    target = cache / "nyu-mll___glue" / task / "0.0.0" / "0123456789abcdef"
    shutil.copytree(builder.cache_dir, target)
    for path in list(target.glob("json-*.arrow")):
        path.rename(target / path.name.replace("json-", "glue-"))
    info = json.loads((target / "dataset_info.json").read_text())
    info.update(dataset_name="glue", config_name=task)
    for split in info["splits"].values():
        split["dataset_name"] = "glue"
    (target / "dataset_info.json").write_text(json.dumps(info))


def test_members_and_heads(tmp_path: Path) -> None:
    glue = suite(tmp_path)
    assert glue.members == TASKS
    assert glue.own_heads
    assert glue.out_of_domain(["rte", "mrpc"]) == ()
    with pytest.raises(DataError, match="never out of domain"):
        glue.out_of_domain_examples("rte")


@pytest.mark.parametrize("name", TASKS)
def test_tasks(tmp_path: Path, name: str) -> None:
    task = suite(tmp_path).task(name)
    if name == "stsb":
        assert (task.kind, len(task.labels), task.key_score) == ("regression", 1, "pearson")
    else:
        assert (task.kind, task.labels) == ("single_label", LABELS[name])
        assert task.key_score == ("matthews" if name == "cola" else "accuracy")


@pytest.mark.parametrize("name", TASKS)
def test_files_are_read(tmp_path: Path, name: str) -> None:
    rows = made_up_rows(name, 6, 1)
    write_rows(tmp_path, name, "train", rows)
    write_rows(tmp_path, name, "validation", rows[:2])
    glue = suite(tmp_path)
    assert glue.missing([name]) == []
    glue.prepare([name])
    train = glue.examples(name, "train")
    columns = COLUMNS[name]
    assert [example.text for example in train] == [entry[columns[0]] for entry in rows]
    pairs = [entry[columns[1]] for entry in rows] if len(columns) == 2 else [None] * 6
    assert [example.text_pair for example in train] == pairs
    assert [example.label for example in train] == [entry["label"] for entry in rows]
    assert {type(example.label) for example in train} == {float if name == "stsb" else int}
    assert glue.examples(name, "dev") == glue.examples(name, "test") == train[:2]


def test_the_validation_split_of_mnli_is_the_matched_one(tmp_path: Path) -> None:
    write_task(tmp_path, "mnli")
    assert (tmp_path / "glue/mnli/validation_matched.jsonl").is_file()
    (tmp_path / "glue/mnli/validation_mismatched.jsonl").write_text(json.dumps(row("mnli", 0, "wrong")) + "\n")
    assert all(example.text != "wrong" for example in suite(tmp_path).examples("mnli", "test"))


def test_labels_may_be_names(tmp_path: Path) -> None:
    write_rows(tmp_path, "rte", "train", [row("rte", "not_entailment"), row("rte", "entailment"), row("rte", 1.0)])
    labels = [example.label for example in suite(tmp_path).examples("rte", "train")]
    assert labels == [1, 0, 1]
    assert {type(label) for label in labels} == {int}


@pytest.mark.parametrize(
    ("task", "entry", "message"),
    [
        ("rte", '{"sentence1": "a"', "not JSON: .* at column 18"),
        ("rte", "[1]", r"expected a JSON object, found \[1\]"),
        ("rte", {"sentence": "a", "label": 0}, 'the row has no "sentence1" and "sentence2"$'),
        ("cola", {"sentence": "a"}, 'the row has no "label"$'),
        ("rte", row("rte", 0, text=3), '"sentence1" must be a string, found 3'),  # type: ignore[arg-type]
        ("rte", row("rte", 2), r'"label" must be one of 0 \(entailment\), 1 \(not_entailment\), found 2$'),
        ("rte", row("rte", 0.5), '"label" must be one of .*, found 0.5'),
        ("rte", row("rte", True), '"label" must be one of .*, found true'),
        ("rte", row("rte", None), '"label" must be one of .*, found null'),
        ("rte", row("rte", [0]), r'"label" must be one of .*, found \[0\]'),
        ("rte", row("rte", "neutral"), '"label" must be one of .*, found "neutral"'),
        ("rte", row("rte", -1), "the labels of test splits are hidden"),
        ("stsb", row("stsb", 5.1), '"label" must be a number from 0 to 5, found 5.1'),
        ("stsb", row("stsb", float("nan")), '"label" must be a number from 0 to 5, found NaN'),
        ("stsb", row("stsb", "similarity"), '"label" must be a number from 0 to 5, found "similarity"'),
        ("stsb", row("stsb", -1.0), "the labels of test splits are hidden"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, task: str, entry: Any, message: str) -> None:
    path = write_rows(tmp_path, task, "train", [row(task, 1), entry])
    with pytest.raises(DataError, match=f":2: .*{message}") as caught:
        suite(tmp_path).examples(task, "train")
    assert str(caught.value).startswith(str(path))


def test_limits_choose_seeded_examples(tmp_path: Path) -> None:
    write_task(tmp_path, "sst2", 40, 30)
    everything = suite(tmp_path).examples("sst2", "train")
    few = suite(tmp_path, train_examples=5).examples("sst2", "train")
    more = suite(tmp_path, train_examples=15).examples("sst2", "train")
    assert (len(few), len(more)) == (5, 15)
    assert [example for example in everything if example in more] == more
    assert set(few) < set(more)
    assert suite(tmp_path, train_examples=15, sample_seed=1).examples("sst2", "train") != more
    limited = suite(tmp_path, dev_examples=4, test_examples=100)
    assert [len(limited.examples("sst2", split)) for split in ("train", "dev", "test")] == [40, 4, 30]
    problems = suite(tmp_path, train_examples=0, dev_examples=-1, test_examples=0).problems()
    assert [problem.split(":")[0] for problem in problems] == ["train_examples", "dev_examples", "test_examples"]


def test_the_fingerprint_changes_with_what_changes_a_member(tmp_path: Path) -> None:
    for task in ("rte", "wnli"):
        write_task(tmp_path, task)
    base = suite(tmp_path).fingerprint("rte")
    assert base == suite(tmp_path, test_examples=1).fingerprint("rte")
    # The order of keys and of columns nobody reads is no difference of the data.
    path = tmp_path / "glue/rte/train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(tmp_path, "rte", "train", [{"more": 1, **dict(reversed(list(entry.items())))} for entry in rows])
    assert base == suite(tmp_path).fingerprint("rte")
    others = [
        suite(tmp_path, **{name: value}).fingerprint("rte")
        for name, value in (("train_examples", 2), ("dev_examples", 2), ("sample_seed", 3))
    ]
    others.append(suite(tmp_path).fingerprint("wnli"))
    for split in ("train", "validation"):
        write_rows(tmp_path, "rte", split, [row("rte", 1, "other")])
        others.append(suite(tmp_path).fingerprint("rte"))
    assert len({base, *others}) == 7


def test_tasks_that_are_nowhere_are_all_named(tmp_path: Path) -> None:
    write_task(tmp_path, "rte")
    messages = suite(tmp_path).missing(["cola", "rte", "mnli", "cola"])
    assert len(messages) == 2
    for message, task, files in zip(
        messages, ("cola", "mnli"), ("{train,validation}", "{train,validation_matched}"), strict=True
    ):
        assert f"{tmp_path / 'glue' / task}/{files}.jsonl" in message
        assert f"nyu-mll/glue (configuration {task})" in message
        assert "no network" in message
        assert "python -m regmean_lab.prepare suite=glue" in message
    for call in (
        lambda: suite(tmp_path).prepare(["rte", "cola"]),
        lambda: suite(tmp_path).examples("cola", "train"),
        lambda: suite(tmp_path).fingerprint("cola"),
    ):
        with pytest.raises(MissingDataError, match=r"python -m regmean_lab\.prepare suite=glue"):
            call()


def test_a_file_that_is_missing_beside_others_is_named(tmp_path: Path, no_hub: Path) -> None:
    write_rows(tmp_path, "rte", "train", [row("rte", 0)])
    rows = {"train": [row("rte", 1)], "validation": [row("rte", 1)]}
    fill_cache(no_hub, tmp_path, "rte", rows)
    (message,) = suite(tmp_path).missing(["rte"])
    assert str(tmp_path / "glue/rte/validation.jsonl") in message
    with pytest.raises(MissingDataError, match=r"validation\.jsonl is not there"):
        suite(tmp_path).examples("rte", "test")


def test_without_a_network_the_cache_is_read(tmp_path: Path, no_hub: Path) -> None:
    rows = {"train": made_up_rows("mrpc", 9, 1), "validation": made_up_rows("mrpc", 4, 2)}
    fill_cache(no_hub, tmp_path, "mrpc", rows)
    cached = suite(tmp_path / "nothing")
    assert len(cached.missing(["mrpc", "cola"])) == 1
    cached.prepare(["mrpc"])
    assert [example.text for example in cached.examples("mrpc", "train")] == [
        entry["sentence1"] for entry in rows["train"]
    ]
    for split, entries in rows.items():
        write_rows(tmp_path, "mrpc", split, entries)
    local = suite(tmp_path)
    assert local.examples("mrpc", "test") == cached.examples("mrpc", "test")
    assert local.fingerprint("mrpc") == cached.fingerprint("mrpc")


def test_the_hub_is_asked_for_the_task_and_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([row("mnli", 2, "a", "b"), row("mnli", 0, "c", "d")])

    monkeypatch.setattr(glue_data, "_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    glue = suite(tmp_path)
    assert glue.missing(TASKS) == []
    assert asked == []  # asking what is missing downloads nothing
    assert glue.examples("mnli", "train") == [Example("a", 2, "b"), Example("c", 0, "d")]
    glue.examples("mnli", "test")
    glue.examples("mnli", "dev")
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_matched")]


def test_a_malformed_row_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glue_data, "_unreachable", lambda: None)
    rows = datasets.Dataset.from_list([row("rte", 0), row("rte", 7)])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
    with pytest.raises(DataError, match=r"nyu-mll/glue, rte, train, row 1: .* found 7"):
        suite(tmp_path).examples("rte", "train")


def test_what_goes_wrong_with_a_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(glue_data, "_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(MissingDataError, match="No space left on device"):
        suite(tmp_path).prepare(["rte"])


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
@pytest.mark.parametrize("task", COUNTS)
def test_real_tasks(task: str) -> None:
    assert DATA is not None
    glue = suite(Path(DATA))
    assert glue.missing([task]) == []
    assert (len(glue.examples(task, "train")), len(glue.examples(task, "test"))) == COUNTS[task]
    rows = [json.loads(line) for line in (Path(DATA) / "glue" / task / "train.jsonl").open(encoding="utf-8")]
    examples = glue.examples(task, "train")
    assert Counter(example.label for example in examples) == Counter(entry["label"] for entry in rows)
    assert all((example.text_pair is None) == (task == "sst2") for example in examples)

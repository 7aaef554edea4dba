from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from glue_files import made_up_rows, row, write_rows, write_task
from hypothesis import given
from hypothesis import strategies as st

from regmean_lab.suites import DataError, glue_data
from regmean_lab.suites.base import Example
from regmean_lab.suites.evaluations import evaluations_for
from regmean_lab.suites.glue_partition import GluePartitionSettings, GluePartitionSuite
from regmean_lab.suites.partition import classes_of, divide, halve

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
PARTS = ("partition_0", "partition_1")


def suite(data_dir: Path, **settings: Any) -> GluePartitionSuite:
    return GluePartitionSuite(data_dir, GluePartitionSettings(**settings))


def parts(data_dir: Path, **settings: Any) -> tuple[list[Example], list[Example]]:
    partition = suite(data_dir, **settings)
    return partition.examples("partition_0", "train"), partition.examples("partition_1", "train")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """400 examples of sst2, 100 of them positive, and of mnli, with labels 0, 1, 2 in equal parts; all texts differ."""
    write_rows(tmp_path, "sst2", "train", [row("sst2", int(n % 4 == 0), f"s{n}") for n in range(400)])
    write_rows(tmp_path, "mnli", "train", [row("mnli", n % 3, f"m{n}") for n in range(390)])
    write_rows(tmp_path, "stsb", "train", [row("stsb", n / 80, f"r{n}") for n in range(320)])
    for task in ("sst2", "mnli", "stsb"):
        write_rows(tmp_path, task, "validation", made_up_rows(task, 10, 2))
    return tmp_path


def test_members_share_task_head_and_evaluation(data_dir: Path) -> None:
    partition = suite(data_dir, examples=100, test_examples=6)
    assert partition.members == PARTS
    assert not partition.own_heads
    assert partition.task("partition_0") == partition.task("partition_1")
    assert (partition.task("partition_0").labels, partition.task("partition_0").key_score) == (
        ("negative", "positive"),
        "accuracy",
    )
    assert partition.out_of_domain(PARTS) == ()
    with pytest.raises(DataError, match="never out of domain"):
        partition.out_of_domain_examples("partition_0")
    first, second = evaluations_for(partition, PARTS)
    assert (first.name, second.name) == PARTS
    assert len(first.examples) == 6
    assert first.examples is second.examples  # so that they are evaluated once
    assert set(first.examples) <= set(partition.examples("partition_0", "dev"))


@pytest.mark.parametrize("share", [0.8, 0.5, 1.0, 0.65])
def test_one_label_is_mostly_in_the_first_part(data_dir: Path, share: float) -> None:
    majorities = set()
    for seed in range(1, 9):
        first, second = parts(data_dir, examples=300, majority_share=share, partition_seed=seed)
        drawn = Counter(example.label for example in first + second)
        assert len(first) + len(second) == 300
        counts = Counter(example.label for example in first)
        shares = {label: counts[label] / drawn[label] for label in (0, 1)}
        majority = max(shares, key=shares.__getitem__)
        for label, own in shares.items():
            expected = share if label == majority else 1 - share
            assert abs(own - expected) * drawn[label] <= 0.5 + 1e-9
        majorities.add(majority)
    if share > 0.5:
        assert majorities == {0, 1}  # which label it is, is random


def test_of_three_labels_one_is_mostly_in_the_first_part(data_dir: Path) -> None:
    first, second = parts(data_dir, task="mnli", examples=None)
    counts = Counter(example.label for example in first)
    assert sorted(counts.values()) == [26, 26, 104]  # of 130 each
    assert len(first) + len(second) == 390


def test_a_regression_is_divided_by_the_halves_of_its_range(data_dir: Path) -> None:
    # Labels run from 0 to 3.9875: the middle is 1.99375, between 159 and 160 of 320.
    first, second = parts(data_dir, task="stsb", examples=None)
    low = [sum(float(example.label) < 2 for example in part) for part in (first, second)]  # type: ignore[arg-type]
    assert sorted(low) == [32, 128]
    assert len(first) == len(second) == 160
    assert classes_of([Example("a", 0.0), Example("b", 1.0), Example("c", 1.1), Example("d", 2.0)], True) == [
        0,
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("kind", ["non_iid", "iid"])
def test_parts_are_disjoint_and_hold_what_was_drawn(data_dir: Path, kind: str) -> None:
    everything = suite(data_dir).data.examples("sst2", "train")
    first, second = parts(data_dir, partition=kind, examples=200, partition_seed=3)
    assert not set(first) & set(second)
    drawn = set(first) | set(second)
    assert len(drawn) == 200
    assert drawn < set(everything)
    for part in (first, second):
        assert part == [example for example in everything if example in set(part)]  # the file's order
    # What is drawn depends on the seed only, not on how it is divided.
    other = parts(data_dir, partition="iid" if kind == "non_iid" else "non_iid", examples=200, partition_seed=3)
    assert set(other[0]) | set(other[1]) == drawn


@pytest.mark.parametrize("kind", ["non_iid", "iid"])
def test_parts_depend_on_the_seed_alone(data_dir: Path, kind: str) -> None:
    first = parts(data_dir, partition=kind, examples=200, partition_seed=3)
    assert parts(data_dir, partition=kind, examples=200, partition_seed=3) == first
    other = parts(data_dir, partition=kind, examples=200, partition_seed=4)
    assert set(other[0]) | set(other[1]) != set(first[0]) | set(first[1])
    everything = [parts(data_dir, partition=kind, examples=None, partition_seed=seed)[0] for seed in (1, 2, 3)]
    assert len({tuple(part) for part in everything}) == 3


def test_iid_parts_are_halves_with_the_same_labels(data_dir: Path) -> None:
    first, second = parts(data_dir, partition="iid", examples=201)
    assert (len(first), len(second)) == (101, 100)
    # 400 examples, a quarter positive: a random half has 50 positives with a standard deviation of about 4.3.
    shares = [
        sum(example.label == 1 for example in parts(data_dir, partition="iid", examples=None, partition_seed=seed)[0])
        for seed in range(20)
    ]
    assert abs(sum(shares) / 20 - 50) < 5 * 4.33 / 20**0.5
    assert len(set(shares)) > 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_division_is_complete_and_disjoint(classes: list[int], share: float, seed: int) -> None:
    first, second = divide(classes, share, seed)
    assert sorted(first + second) == list(range(len(classes)))
    assert first == sorted(first)
    counts = Counter(classes)
    own = Counter(classes[index] for index in first)
    rounded = {label: {round(share * count), round((1 - share) * count)} for label, count in counts.items()}
    assert all(own[label] in rounded[label] for label in counts)
    halves = halve(len(classes), seed)
    assert sorted([*halves[0], *halves[1]]) == list(range(len(classes)))
    assert len(halves[0]) - len(halves[1]) in (0, 1)


def test_limits_keep_a_part_of_each_part(data_dir: Path) -> None:
    whole = parts(data_dir, examples=200)
    limited = parts(data_dir, examples=200, train_examples=30)
    assert [len(part) for part in limited] == [30, 30]
    assert all(set(few) < set(part) for few, part in zip(limited, whole, strict=True))


def test_more_examples_than_there_are_is_an_error(data_dir: Path) -> None:
    partition = suite(data_dir, examples=401)
    with pytest.raises(DataError, match=r"suite\.examples=401, but sst2 has 400 training examples"):
        partition.prepare(PARTS)
    suite(data_dir, examples=400).prepare(PARTS)


def test_settings_that_cannot_work_are_all_named(tmp_path: Path) -> None:
    assert suite(tmp_path).problems() == []
    problems = suite(
        tmp_path, task="sst", partition="random", examples=1, majority_share=1.1, train_examples=0
    ).problems()
    assert [problem.split(":")[0] for problem in problems] == [
        "train_examples",
        "task",
        "partition",
        "examples",
        "majority_share",
    ]
    assert "did you mean sst2" in problems[1]


def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glue_data, "hub_problem", lambda name: "no network")
    write_task(tmp_path, "rte")
    assert suite(tmp_path, task="rte").missing(PARTS) == []
    (message,) = suite(tmp_path, task="cola").missing(PARTS)
    assert "task cola is neither in" in message


def test_the_fingerprint_changes_with_what_changes_a_member(data_dir: Path) -> None:
    base = suite(data_dir).fingerprint("partition_0")
    assert base == suite(data_dir, test_examples=1).fingerprint("partition_0")
    others = [
        suite(data_dir, **{name: value}).fingerprint("partition_0")
        for name, value in (
            ("task", "mnli"),
            ("partition", "iid"),
            ("examples", 100),
            ("majority_share", 0.7),
            ("partition_seed", 2),
            ("train_examples", 5),
            ("dev_examples", 5),
            ("sample_seed", 1),
        )
    ]
    others.append(suite(data_dir).fingerprint("partition_1"))
    write_rows(data_dir, "sst2", "train", [row("sst2", 0)])
    others.append(suite(data_dir).fingerprint("partition_0"))
    assert len({base, *others}) == 11
    iid = suite(data_dir, partition="iid").fingerprint("partition_0")
    assert iid == suite(data_dir, partition="iid", majority_share=0.6).fingerprint("partition_0")


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
@pytest.mark.parametrize("task", ["sst2", "mrpc", "stsb"])
def test_real_partitions(task: str) -> None:
    assert DATA is not None
    first, second = parts(Path(DATA), task=task)
    assert len(first) + len(second) == 2000
    # stsb: scores from 0 to 5.
    kinds = [[int(float(e.label) > (2.5 if task == "stsb" else 0.5)) for e in part] for part in (first, second)]  # type: ignore[arg-type]
    drawn = Counter([*kinds[0], *kinds[1]])
    shares = sorted(Counter(kinds[0])[kind] / drawn[kind] for kind in (0, 1))
    assert shares == pytest.approx([0.2, 0.8], abs=0.001)

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regmean_lab.results import (
    RESULT_FILE,
    SCHEMA,
    Result,
    ResultError,
    combine_fingerprints,
    fingerprint,
    mean,
    read_result,
    zero_note,
)
from regmean_lab.utils.files import write_json

CONFIGURATION: dict[str, Any] = {
    "experiment": "x",
    "suite": {"name": "emotion", "train_examples": 10},
    "training": {"learning_rate": 1e-05, "steps": None},
    "trainer": {"accelerator": "cpu", "precision": "32-true", "progress_bar": True, "workers": 0},
    "paths": {"data_dir": "data"},
    "logger": {"kind": "csv"},
    "force": False,
    "save_merged": False,
    "seed": 1,
}


def result(**changes: Any) -> Result:
    return replace(
        Result(
            fingerprint="f",
            experiment="x",
            suite="emotion",
            model="m",
            method="regmean",
            members=["a", "b"],
            seed=1,
            head_init="same",
            scores={"in_domain": {"a": 50.0, "b": 60.0}, "out_of_domain": {"c": 40.0}},
            mean_in_domain=55.0,
            mean_out_of_domain=40.0,
            metrics={"a": {"macro_f1": 50.0}},
            seconds={"train": 1.0, "statistics": 0.0, "merge": 0.0, "evaluate": 0.5},
            peak_memory_bytes=10,
            environment={"versions": {}},
            data_fingerprint="d",
            zoo={"a": "0", "b": "1"},
            configuration=CONFIGURATION,
        ),
        **changes,
    )


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = result().write(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / RESULT_FILE
    assert read_result(path) == result()


def test_the_file_has_what_scripts_rely_on(tmp_path: Path) -> None:
    content = json.loads(result().write(tmp_path).read_text())
    stable = {
        *("schema", "fingerprint", "experiment", "suite", "model", "method", "members", "seed", "head_init"),
        *("scores", "mean_in_domain", "mean_out_of_domain", "metrics", "seconds", "peak_memory_bytes", "environment"),
    }
    assert stable <= set(content)
    assert content["schema"] == SCHEMA
    assert set(content["scores"]) == {"in_domain", "out_of_domain"}
    assert set(content["seconds"]) == {"train", "statistics", "merge", "evaluate"}


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    scores = {"in_domain": {"a": math.nan}, "out_of_domain": {}}
    path = result(scores=scores, mean_out_of_domain=None, metrics={"a": [1.0, -math.inf]}).write(tmp_path)
    content = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert content["scores"]["in_domain"] == {"a": None}
    assert content["metrics"] == {"a": [1.0, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable result"),
        ('{"schema": 1', "not a readable result"),
        ("[]", "schema 1"),
        ('{"schema": 99}', "schema 1"),
        ('{"schema": 1, "seed": 1}', "not a readable result .*experiment"),
    ],
)
def test_what_is_no_result_is_told_with_its_path(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / RESULT_FILE
    path.write_text(content)
    with pytest.raises(ResultError, match=message) as caught:
        read_result(path)
    assert str(path) in str(caught.value)


def test_a_missing_result_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="No such file"):
        read_result(tmp_path / RESULT_FILE)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    write_json(path, {"a": (2, 3)})
    assert json.loads(path.read_text()) == {"a": [2, 3]}
    assert sorted(tmp_path.iterdir()) == [path]


class TestFingerprint:
    @pytest.mark.parametrize(
        ("part", "key", "value"),
        [
            ("paths", "data_dir", "/elsewhere"),
            ("logger", "kind", "wandb"),
            ("trainer", "progress_bar", False),
            ("trainer", "workers", 4),
            (None, "force", True),
            (None, "save_merged", True),
            (None, "hydra", {"job": 1}),
        ],
    )
    def test_does_not_change_with_what_changes_no_number(self, part: str | None, key: str, value: Any) -> None:
        other = copy.deepcopy(CONFIGURATION)
        (other if part is None else other[part])[key] = value
        assert fingerprint(other) == fingerprint(CONFIGURATION)

    @pytest.mark.parametrize(
        ("part", "key", "value"),
        [
            ("training", "learning_rate", 2e-05),
            ("training", "steps", 5),
            ("suite", "train_examples", None),
            ("trainer", "precision", "bf16-mixed"),
            (None, "seed", 2),
            (None, "cross_evaluation", True),
        ],
    )
    def test_changes_with_what_may_change_numbers(self, part: str | None, key: str, value: Any) -> None:
        other = copy.deepcopy(CONFIGURATION)
        (other if part is None else other[part])[key] = value
        assert fingerprint(other) != fingerprint(CONFIGURATION)

    def test_does_not_depend_on_the_order_of_keys(self) -> None:
        assert fingerprint(dict(reversed(CONFIGURATION.items()))) == fingerprint(CONFIGURATION)
        assert len(fingerprint(CONFIGURATION)) == 64


def test_fingerprints_are_combined_in_order() -> None:
    assert combine_fingerprints(["a", "b"]) == combine_fingerprints(iter(["a", "b"]))
    assert combine_fingerprints(["a", "b"]) != combine_fingerprints(["b", "a"])
    assert combine_fingerprints(["ab"]) != combine_fingerprints(["a", "b"])


def test_mean() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3
    assert mean([]) is None


@pytest.mark.parametrize(
    ("method", "scores", "expected"),
    [
        ("individual", {"tec": 0.0, "isear": 3.0}, "tec: member scores 0"),
        ("individual", {"tec": 0.0, "isear": 0.0}, "tec, isear: members score 0"),
        ("individual", {"tec": 1.0, "isear": 3.0}, None),
        ("regmean", {"tec": 0.0, "isear": 0.0}, "regmean: scores 0 on the data of every member"),
        ("regmean", {"tec": 0.0, "isear": 0.1}, None),
        ("regmean", {}, None),
    ],
)
def test_scores_of_0_are_noted(method: str, scores: dict[str, float], expected: str | None) -> None:
    note = zero_note(method, scores)
    assert note is None if expected is None else note is not None and note.startswith(expected)
    assert note is None or "train longer or on more examples" in note

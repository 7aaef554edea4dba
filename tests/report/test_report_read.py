from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_results import make_result, write_results

from regmean_lab.report.read import NoResultsError, find_runs


def test_every_result_is_found_once(tmp_path: Path) -> None:
    written = [make_result(seed=seed) for seed in (1, 2, 3)]
    paths = write_results(tmp_path, written)

    found = find_runs([tmp_path, tmp_path / "emotion_pairwise"])

    assert [run.path for run in found.runs] == [path.resolve() for path in sorted(paths)]
    assert [run.result for run in found.runs] == written
    assert found.problems == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoResultsError, match="nowhere"):
        find_runs([tmp_path / "nowhere"])


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoResultsError, match=f"no result.json below {tmp_path}"):
        find_runs([tmp_path])


def test_hidden_folders_are_not_looked_into(tmp_path: Path) -> None:
    write_results(tmp_path / ".trash", [make_result()])

    with pytest.raises(NoResultsError):
        find_runs([tmp_path])


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"schema": 1}', "[]", "null", "\x00\x01", "[" * 100_000, '{"schema": 1, "unknown": 2}'],
    ids=["empty", "cut off", "no content", "list", "null", "binary", "deep", "other keys"],
)
def test_a_corrupt_result_is_named_and_left_out(tmp_path: Path, content: str) -> None:
    (good,) = write_results(tmp_path, [make_result()])
    bad = tmp_path / "corrupt" / "result.json"
    bad.parent.mkdir()
    bad.write_text(content)

    found = find_runs([tmp_path])

    assert [run.path for run in found.runs] == [good.resolve()]
    (problem,) = found.problems
    assert str(bad.resolve()) in problem


@pytest.mark.parametrize(
    ("unknown", "readable"),
    [(None, True), ({}, True), ({"ssec": ["trust"]}, True), (["trust"], False), ({"ssec": "trust"}, False)],
)
def test_labels_that_no_member_knows(tmp_path: Path, unknown: object, readable: bool) -> None:
    """A result of version 0.1 does not tell them."""
    write_results(tmp_path, [make_result(seed=1)])
    (path,) = write_results(tmp_path / "other", [make_result(seed=2)])
    content = json.loads(path.read_text())
    if unknown is None:
        del content["unknown_labels"]
    else:
        content["unknown_labels"] = unknown
    path.write_text(json.dumps(content))
    found = find_runs([tmp_path])
    assert (len(found.runs), len(found.problems)) == ((2, 0) if readable else (1, 1))
    (run,) = [run for run in found.runs if run.result.seed == 2] or [None]
    assert (run.result.unknown_labels == unknown) if run else "unknown_labels: expected lists" in found.problems[0]


def test_bytes_that_are_no_text_are_named_and_left_out(tmp_path: Path) -> None:
    write_results(tmp_path, [make_result()])
    bad = tmp_path / "corrupt" / "result.json"
    bad.parent.mkdir()
    bad.write_bytes(b"\xff\xfe\x80{}")

    assert [str(bad.resolve()) in problem for problem in find_runs([tmp_path]).problems] == [True]


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_results_of_another_schema_are_named_and_left_out(tmp_path: Path, schema: object) -> None:
    good, other = write_results(tmp_path, [make_result(seed=1), make_result(seed=2)])
    content = json.loads(other.read_text())
    other.write_text(json.dumps(content | {"schema": schema}))

    found = find_runs([tmp_path])

    assert [run.path for run in found.runs] == [good.resolve()]
    (problem,) = found.problems
    assert str(other.resolve()) in problem
    assert "schema 1" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", 3),
        ("members", []),
        ("members", "tec"),
        ("seed", "one"),
        ("scores", {"in_domain": {"tec": 1.0}}),
        ("scores", {"in_domain": {"tec": "high"}, "out_of_domain": {}}),
        ("scores", {"in_domain": {"tec": True}, "out_of_domain": {}}),
        ("mean_in_domain", "high"),
        ("mean_in_domain", float("nan")),
        ("scores", {"in_domain": {"tec": float("inf")}, "out_of_domain": {}}),
        ("configuration", []),
        ("environment", None),
    ],
)
def test_a_result_of_the_wrong_form_says_what_is_wrong(tmp_path: Path, name: str, value: object) -> None:
    (path,) = write_results(tmp_path, [make_result()])
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    with pytest.raises(NoResultsError, match=name) as caught:
        find_runs([tmp_path])
    assert str(path.resolve()) in str(caught.value)


def test_scores_may_be_null(tmp_path: Path) -> None:
    (path,) = write_results(tmp_path, [make_result()])
    content = json.loads(path.read_text())
    content["scores"]["in_domain"]["tec"] = None
    path.write_text(json.dumps(content | {"mean_in_domain": None}))

    (run,) = find_runs([tmp_path]).runs

    assert run.result.scores["in_domain"]["tec"] is None

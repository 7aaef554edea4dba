"""What was measured of the sweep of all methods, kept as lines: docs/methods_record.py."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from regmean_lab.results import Result

SCRIPT = Path(__file__).parents[1] / "docs" / "methods_record.py"


def load(name: str) -> Any:
    """A script of the documentation, which may import others of it."""
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


RECORD = load("methods_record")


def job(method: str, members: str, seed: int, gap: float | None, inside: float, **more: Any) -> dict[str, Any]:
    line = {"suite": "sentiment", "model": "minilm", "train_examples": 1500, "test_examples": 500}
    line |= {"method": method, "members": members, "seed": seed}
    scores = {"gap_closed": gap, "mean_in_domain": inside, "mean_out_of_domain": 70.0, "agreement": 90.0}
    return {**dict.fromkeys(RECORD.MEASURED), **line, **scores, "reads_text": 0, "merge_seconds": 2.0, **more}


def test_a_job_that_is_measured_again_replaces_the_first() -> None:
    first = pd.DataFrame([job("regmean", "a+b", 1, 10.0, 80.0), job("simple", "a+b", 1, 0.0, 79.0)])
    again = pd.DataFrame([job("regmean", "a+b", 1, 12.0, 81.0), job("regmean", "a+b", 2, 14.0, 82.0)])
    record = RECORD.added(first, again)
    assert list(record["gap_closed"]) == [12.0, 14.0, 0.0]
    assert list(record["method"]) == ["regmean", "regmean", "simple"]


def test_lines_are_read_from_a_report(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    result.write_text(json.dumps(plain_result()))
    line = {**job("regmean", "a+b", 1, 10.0, 80.0), "state": "measured", "path": result}
    for absent in ("merge_seconds", "reads_text", "train_examples", "test_examples"):
        del line[absent]
    pd.DataFrame([line, {**line, "method": "ties", "state": "missing", "path": None}]).to_csv(tmp_path / "runs.csv")
    [found] = RECORD.measured_jobs(tmp_path / "runs.csv").to_dict("records")
    assert (found["method"], found["merge_seconds"], found["gap_closed"]) == ("regmean off_diagonal=1", 7.5, 10.0)
    assert (found["train_examples"], found["test_examples"]) == (1500, 500)
    pd.DataFrame([line, line]).to_csv(tmp_path / "twice.csv")
    with pytest.raises(
        ValueError, match="several results of sentiment, minilm, 1500, 500, regmean off_diagonal=1, a\\+b, 1"
    ):
        RECORD.measured_jobs(tmp_path / "twice.csv")
    pd.DataFrame([{"a": 1}]).to_csv(tmp_path / "other.csv")
    with pytest.raises(ValueError, match="no column members"):
        RECORD.measured_jobs(tmp_path / "other.csv")


def plain_result() -> dict[str, Any]:
    scores = {"in_domain": {"a": 80.0, "b": 80.0}, "out_of_domain": {}}
    text = dict.fromkeys(
        ("fingerprint", "experiment", "suite", "model", "method", "head_init", "data_fingerprint"), "x"
    )
    settings = {"name": "regmean", "off_diagonal": 1.0, "exclude_layers": [], "gram": "plain", "coefficients": None}
    numbers = {"seed": 1, "mean_in_domain": 80.0, "mean_out_of_domain": None, "peak_memory_bytes": 1, "schema": 1}
    rest = {"members": ["a", "b"], "metrics": {}, "environment": {}, "zoo": {}}
    return {
        **text,
        **numbers,
        **rest,
        "method": "regmean",
        "scores": scores,
        "seconds": {"merge": 7.5},
        "configuration": {"method": settings, "suite": {"train_examples": 1500, "test_examples": 500}},
    }


def labelled(method: str, settings: dict[str, Any], **more: Any) -> str:
    """The label of a result of a method with these settings."""
    content = {**plain_result(), "method": method}
    content["configuration"] = {"method": settings, "statistics": more.pop("statistics", {})}
    known = {entry.name for entry in fields(Result)}
    return RECORD.label(Result(**{key: value for key, value in {**content, **more}.items() if key in known}))


def test_settings_chosen_on_dev_are_one_row_whatever_was_chosen() -> None:
    chosen = {"on": "dev", "keys": ["method.off_diagonal"]}
    labels = {labelled("regmean", {"off_diagonal": value}, selection=chosen) for value in (0.5, 0.9, 1.0)}
    assert labels == {"regmean (chosen on dev)"}
    text = {"text": "pseudo", "start": "simple", "damping": 0.3}
    assert labelled("regmean_sequential", text, selection={"on": "dev", "keys": ["method.damping"]}) == (
        "regmean_sequential text=pseudo start=simple (chosen on dev)"
    )


def test_what_an_owner_publishes_makes_another_row() -> None:
    """Counts with noise are not those without, nor a diagonal the whole matrix."""
    text = {"text": "pseudo", "start": "simple"}
    counts = {"tokens": {"epsilon": 3.0, "delta": 1e-6, "minimum_count": 5, "examples": None}}
    label = labelled("regmean_sequential", text, statistics=counts, statistics_bytes={"tokens": 9})
    assert label == "regmean_sequential text=pseudo start=simple tokens.epsilon=3 tokens.delta=1e-06"
    few = {"tokens": {**counts["tokens"], "tokens_per_text": 12}}
    label = labelled("regmean_sequential", text, statistics=few, statistics_bytes={"tokens": 9})
    assert label.endswith(" tokens.epsilon=3 tokens.delta=1e-06 tokens.tokens_per_text=12")
    without = {"tokens": {"epsilon": None, "tokens_per_text": 12}}  # it is for epsilon, and changes nothing
    label = labelled("regmean_sequential", text, statistics=without, statistics_bytes={"tokens": 9})
    assert label == "regmean_sequential text=pseudo start=simple"
    every = {"tokens": {"minimum_count": 1, "pairs": True}}
    label = labelled("regmean_sequential", text, statistics=every, statistics_bytes={"tokens": 9})
    assert label == "regmean_sequential text=pseudo start=simple tokens.minimum_count=1 tokens.pairs=true"
    forms = {"gram": {"form": "low_rank", "rank": 16, "examples": 3}, "fisher": {"examples": 7}}
    assert labelled("regmean", {}, statistics=forms, statistics_bytes={"gram": 9}) == (
        "regmean gram.form=low_rank gram.rank=16"
    )


def test_steps_after_a_merge_are_told_with_their_settings() -> None:
    steps = ["svc", {"towards_mean": {"share": 0.3}}]
    assert labelled("simple", {"followed_by": steps}) == "simple followed_by=svc+towards_mean(share=0.3)"
    assert labelled("distill", {"start_settings": {"start": "simple"}}) == "distill start_settings=(start=simple)"


def test_differences_are_paired_and_rows_begin_with_the_best() -> None:
    """By hand: the differences are 1 and 3 where both were measured; the third job has no partner."""
    jobs = [job("simple", "a+b", seed, 0.0, 79.0, statistics_bytes=0) for seed in (1, 2)]
    jobs += [job("regmean", "a+b", seed, gap, inside) for seed, gap, inside in ((1, 9.0, 80.0), (2, 11.0, 82.0))]
    jobs += [
        job("regmean", "a+b", 3, 13.0, 90.0, statistics_bytes=34_000_000, reads_text=1),
        job("individual", "a+b", 1, None, 85.0),
    ]
    lines = [line for line in RECORD.tables(pd.DataFrame(jobs)).splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == ["individual", "regmean", "simple"]
    assert lines[1] == "| `regmean` | 3 | 11.0 |  |  | 90.0 | 84.00 | +2.00 | 70.00 | +0.00 | 34.0 MB + text | 2 |"
    assert lines[2].endswith("| 0 | 2 |")


def test_the_interval_needs_five_jobs() -> None:
    few = [job("regmean", "a+b", seed, float(seed), 80.0) for seed in range(1, 5)]
    assert "(" not in RECORD.tables(pd.DataFrame(few)).partition("|---")[2]
    enough = [*few, job("regmean", "a+b", 5, 5.0, 80.0)]
    assert " 3.0 (1.8 to 4.2) " in RECORD.tables(pd.DataFrame(enough))


def test_sizes_of_the_data_do_not_mix() -> None:
    small = {"train_examples": 300, "test_examples": 100}
    first = pd.DataFrame([job("simple", "a+b", 1, 0.0, 80.0), job("simple", "a+b", 1, 0.0, 60.0, **small)])
    assert len(RECORD.added(first, first)) == 2
    text = RECORD.tables(first)
    assert "Examples: 1500 to train a member, 500 in a test." in text
    assert "Examples: 300 to train a member, 100 in a test." in text


def test_comparisons_over_all_suites_are_of_one_size_of_the_data_and_one_model() -> None:
    """By hand: 30 against 20 with few examples, 50 against 20 with all of them, 70 against 80 in another suite."""
    first, second = RECORD.CONTRASTS[-1]
    small = {"train_examples": 300, "test_examples": 100}
    every: dict[str, Any] = {"train_examples": None, "test_examples": None}
    kinds = (((30.0, 20.0), small), ((50.0, 20.0), every), ((70.0, 80.0), {"suite": "two"}))
    jobs = [
        {**job(method, "a+b", 1, gap, 80.0), **more}
        for gaps, more in kinds
        for method, gap in zip((first, second), gaps, strict=True)
    ]
    table = RECORD.tables(pd.DataFrame(jobs)).partition("### All suites, 2 members")[2]
    assert f"| `{first}` | `{second}` | 3 | 50.0 | 40.0 | +10.0 | 1.25 |\n" in table


def test_methods_are_compared_where_both_were_measured() -> None:
    """By hand: on seeds 1 and 2 of one set the gaps are 30 and 20 against 20 and 5."""
    first, second = RECORD.CONTRASTS[-1]
    jobs = [job(first, "a+b", seed, gap, 80.0) for seed, gap in ((1, 30.0), (2, 20.0), (3, 99.0))]
    jobs += [job(second, "a+b", seed, gap, 80.0) for seed, gap in ((1, 20.0), (2, 5.0))]
    jobs += [job(second, "a+c", 1, 77.0, 80.0)]
    assert f"| `{first}` | `{second}` | 2 | 25.0 | 12.5 | +12.5 | 2.00 |\n" in RECORD.tables(pd.DataFrame(jobs))


def test_pairs_of_all_suites_are_compared_together() -> None:
    """By hand: gaps of 30 and 20 in one suite, 70 in another, against 20, 5 and 80; three members are left out."""
    first, second = RECORD.CONTRASTS[-1]
    jobs = [
        {**job(method, members, 1, gap, 80.0), "suite": suite}
        for suite, members, gaps in (
            ("one", "a+b", (30.0, 20.0)),
            ("one", "a+c", (20.0, 5.0)),
            ("two", "d+e", (70.0, 80.0)),
            ("two", "d+e+f", (1.0, 99.0)),
        )
        for method, gap in zip((first, second), gaps, strict=True)
    ]
    every = RECORD.tables(pd.DataFrame(jobs)).partition("### All suites, 2 members")[2]
    assert f"| `{first}` | `{second}` | 3 | 40.0 | 35.0 | +5.0 | 1.14 |\n" in every
    assert "All suites" not in RECORD.tables(pd.DataFrame(jobs[:4]))


def test_labels_that_are_compared_are_those_of_results() -> None:
    """A row that no result can have would silently compare nothing."""
    pseudo = {"text": "pseudo", "start": "simple"}
    counts = {"tokens": {"epsilon": 3.0, "delta": 1e-6}}
    towards = {**pseudo, "followed_by": [{"towards_mean": {"share": 0.3}}]}
    own = {"text": "own", "examples": None}
    residual = {"followed_by": [{"residual": {"rank": 4}}]}
    possible = {
        labelled("mats", {}),
        labelled("simple", residual),
        labelled("regmean", {**residual, "gram": "weighted"}),
        labelled("regmean_sequential", pseudo),
        labelled("regmean_sequential", towards),
        labelled("regmean_sequential", pseudo, statistics=counts, statistics_bytes={"tokens": 9}),
        labelled("regmean_sequential", {}),
        labelled("distill", own),
        labelled("distill", {"start": "regmean_sequential", "start_settings": {"start": "simple"}}),
        labelled("regmean", {"gram": "weighted"}),
        labelled("regmean", {"off_diagonal": 1.0}),
    }
    assert {name for pair in RECORD.CONTRASTS for name in pair} <= possible


def test_the_picture_shows_jobs_that_all_merges_have() -> None:
    """By hand: of three pairs, one is not measured by every merge of the picture."""
    picture = load("methods_picture")
    jobs = []
    for number, name in enumerate((*picture.PUBLISHED, picture.TEXT)):
        for members, gap in (("a+b", 10.0), ("a+c", 20.0), ("b+c", 90.0)):
            if members != "b+c" or number != 2:
                jobs.append(job(name, members, 1, gap + number, 80.0, statistics_bytes=1000 * number))
    jobs.append(job(picture.TEXT, "a+b+c", 1, 99.0, 80.0, statistics_bytes=1))
    *published, text = picture.points(pd.DataFrame(jobs))
    assert [point.gap for point in published] == [15.0 + number for number in range(len(published))]
    assert {(point.jobs, point.high - point.low) for point in published} == {(2, 10.0)}
    assert [point.size for point in published[:5]] == [0, 1000, 2000, 3000, 4000]
    assert published[5].size == 2500  # packed: half of what the zoo has
    assert text.gap == 15.0 + len(published)
    with pytest.raises(ValueError, match="not measured: regmean gram=weighted"):
        picture.points(pd.DataFrame([one for one in jobs if one["method"] != "regmean gram=weighted"]))


def test_readme_tells_what_the_picture_shows() -> None:
    """The text beside the picture has its numbers."""
    picture = load("methods_picture")
    readme = (SCRIPT.parents[1] / "README.md").read_text(encoding="utf-8")
    alternative = readme.partition("](docs/images/gap_by_size.png)")[0].rpartition("![")[2]
    shown = [f"{point.gap:.0f}" for point in picture.points(RECORD.read_record()) if point.size]
    assert shown
    assert [gap for gap in shown if f"{gap} percent" not in alternative] == []

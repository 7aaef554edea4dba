"""What was measured of the sweep of all methods, kept as lines: docs/methods_record.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "methods_record.py"
SPEC = importlib.util.spec_from_file_location("methods_record", SCRIPT)
assert SPEC is not None and SPEC.loader is not None
RECORD = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(RECORD)


def job(method: str, members: str, seed: int, gap: float | None, inside: float, **more: Any) -> dict[str, Any]:
    line = {"suite": "sentiment", "model": "minilm", "method": method, "members": members, "seed": seed}
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
    del line["merge_seconds"], line["reads_text"]
    pd.DataFrame([line, {**line, "method": "ties", "state": "missing", "path": None}]).to_csv(tmp_path / "runs.csv")
    [found] = RECORD.measured_jobs(tmp_path / "runs.csv").to_dict("records")
    assert (found["method"], found["merge_seconds"], found["gap_closed"]) == ("regmean off_diagonal=1", 7.5, 10.0)
    pd.DataFrame([line, line]).to_csv(tmp_path / "twice.csv")
    with pytest.raises(ValueError, match="several results of sentiment, minilm, regmean off_diagonal=1, a\\+b, 1"):
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
        "configuration": {"method": settings},
    }


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

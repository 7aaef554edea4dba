"""Learning curves of members, from the zoo entries that results name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from report_results import make_result, pairwise, runs_of, section_of

from regmean_lab.report.charts.learning import learning_charts
from regmean_lab.report.files import FileNames
from regmean_lab.report.histories import TrainingHistory, histories_of
from regmean_lab.results import Result

ADDRESSES = {"tec": "0123456789abcdef", "isear": "fedcba9876543210"}
HISTORY = [
    {"step": 10, "loss": 1.5, "score": 40.0},
    {"step": 20, "loss": 0.5, "score": 60.0},
    {"step": 30, "loss": 0.2, "score": 55.0},
]


def trained(result: Result, zoo: Path) -> Result:
    """The same result, of members in a zoo."""
    result.configuration["paths"] = {"zoo_dir": str(zoo)}
    result.zoo = {member: ADDRESSES[member] for member in result.members}
    return result


def entry(zoo: Path, member: str, **training: Any) -> None:
    folder = zoo / f"emotion-{member}-roberta_base-seed1-{ADDRESSES[member]}"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"description": {}, **training}))


def test_a_training_is_found_once_by_all_results_that_merge_the_member(tmp_path: Path) -> None:
    entry(tmp_path, "tec", history=HISTORY)
    entry(tmp_path, "isear", scores={"macro_f1": 50.0})  # of an earlier version
    results = [trained(make_result(method, seed=seed), tmp_path) for method in ("simple", "regmean") for seed in (1, 2)]

    assert histories_of(runs_of(results)) == [
        TrainingHistory(ADDRESSES["tec"], "tec", {10: 40.0, 20: 60.0, 30: 55.0}, {10: 1.5, 20: 0.5, 30: 0.2})
    ]


@pytest.mark.parametrize(
    "history",
    [
        "text",
        [],
        [3],
        [{"step": "1", "loss": 1.0}],
        [{"step": 1, "loss": "x", "score": None}],
        [{"step": 1, "loss": True}],
    ],
)
def test_a_history_that_training_does_not_write_is_left_out(tmp_path: Path, history: object) -> None:
    entry(tmp_path, "tec", history=history)
    assert histories_of(runs_of([trained(make_result(), tmp_path)])) == []


def test_without_the_zoo_there_are_no_curves(tmp_path: Path) -> None:
    away = trained(make_result(), tmp_path / "away")
    (tmp_path / "a-0123456789abcdef").mkdir()  # an entry without its record
    broken = trained(make_result(seed=2), tmp_path)
    assert histories_of(runs_of([away, broken, make_result(seed=3)])) == []
    assert learning_charts(section_of([away]), FileNames()) == []


def test_curves_are_those_of_the_training(tmp_path: Path) -> None:
    entry(tmp_path, "tec", history=HISTORY)
    entry(tmp_path, "isear", history=[{"step": 5, "loss": 2.0}])  # without evaluations
    section = section_of([trained(make_result(method), tmp_path) for method in ("simple", "regmean")])

    (chart,) = learning_charts(section, FileNames())

    figure = Figure(figsize=chart.size)
    chart.draw(figure)
    scores, losses = figure.axes
    assert [axes.get_title() for axes in (scores, losses)] == ["key score on dev × 100", "loss on training data"]
    curve, best = scores.get_lines()[:2]
    assert [list(part) for part in curve.get_data()] == [[10, 20, 30], [40.0, 60.0, 55.0]]
    assert [list(part) for part in best.get_data()] == [[20], [60.0]]
    assert [list(line.get_ydata()) for line in losses.get_lines()] == [[1.5, 0.5, 0.2], [2.0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tec", "isear"]
    assert "tec 60.00" in chart.description


def test_columns_that_merge_the_same_members_have_one_chart(tmp_path: Path) -> None:
    entry(tmp_path, "tec", history=HISTORY)
    entry(tmp_path, "isear", history=HISTORY)
    results = [trained(make_result(head_init=init), tmp_path) for init in ("same", "different")]
    assert len(section_of(results).columns) == 2
    assert len(learning_charts(section_of(results), FileNames())) == 1
    assert learning_charts(section_of(pairwise(("simple",))), FileNames()) == []

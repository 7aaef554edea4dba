"""The table of docs/fidelity.md on tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fidelity import GOAL, ROWS, Workplace, batch_mean_fisher, padding, reweighted_loss, table
from regmean_lab.statistics import collect_fisher, collect_gram

DOCUMENT = (Path(__file__).parents[2] / "docs" / "fidelity.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("fidelity"), None, examples=32, epochs=1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_a_setting_is_what_its_formula_says(row, work: Workplace) -> None:
    made = row(work)
    assert made.difference < GOAL
    line = table([made]).splitlines()[-1]
    assert made.what in line
    assert f"| {made.what} |" in DOCUMENT


def test_a_setting_that_is_off_is_told(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas are not those of the defaults: with the default in the setting's place the difference is large."""
    monkeypatch.setattr("benchmarks.fidelity.collect_gram", without(collect_gram, "count_padding"))
    assert padding(work).difference > 1e-3
    monkeypatch.setattr("benchmarks.fidelity.collect_fisher", without(collect_fisher, "labels_from"))
    assert batch_mean_fisher(work).difference > 1e-3
    monkeypatch.setattr("benchmarks.fidelity.sqrt_weights", lambda labels: None)
    assert reweighted_loss(work).difference > 1e-3


def without(collect, setting: str):
    return lambda *arguments, **settings: collect(*arguments, **{**settings, setting: DEFAULTS[setting]})


DEFAULTS = {"count_padding": False, "labels_from": "expectation"}

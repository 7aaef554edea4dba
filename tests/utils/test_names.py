"""Hints with valid names."""

from __future__ import annotations

from regmean_lab.utils.names import did_you_mean, nearest


def test_a_hint_has_the_nearest_names_or_all() -> None:
    assert did_you_mean("regmaen", ["simple", "regmean", "fisher"]) == "did you mean regmean?"
    assert did_you_mean("zzz", ["b", "a"]) == "there are: b, a"


def test_the_nearest_come_first_and_no_more_than_asked_for() -> None:
    assert nearest("seed1", {"seed10": 1, "seed1x": 2, "other": 3}, most=1) in (["seed10"], ["seed1x"])
    assert nearest("seed1", ["seed2", "seed11", "zoo"]) == ["seed11", "seed2"]
    assert nearest("seed1", ["zoo"]) == []

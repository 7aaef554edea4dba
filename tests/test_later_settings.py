import pytest

from regmean_lab import later_settings
from regmean_lab.later_settings import without_later_settings
from regmean_lab.results import fingerprint


@pytest.fixture(autouse=True)
def later(monkeypatch):
    monkeypatch.setattr(later_settings, "LATER_SETTINGS", {"method.new": False, "statistics.gram.new": None})


def test_a_new_setting_at_its_first_value_changes_no_fingerprint():
    old = {"method": {"name": "x"}, "statistics": {"gram": {"examples": 1}}}
    new = {"method": {"name": "x", "new": False}, "statistics": {"gram": {"examples": 1, "new": None}}}
    assert fingerprint(old) == fingerprint(new)


def test_another_value_of_a_new_setting_changes_the_fingerprint():
    assert fingerprint({"method": {"name": "x"}}) != fingerprint({"method": {"name": "x", "new": True}})


def test_a_part_is_told_by_its_prefix():
    assert without_later_settings({"new": None, "examples": 1}, "statistics.gram.") == {"examples": 1}
    assert without_later_settings({"new": None, "examples": 1}, "statistics.fisher.") == {"new": None, "examples": 1}

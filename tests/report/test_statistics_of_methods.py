"""The settings of statistics that reports read from the methods' source, against the methods themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmean_lab.config.baselines import comparator_types
from regmean_lab.config.method_settings import declared_statistics
from regmean_lab.merging import method_types
from regmean_lab.report.entries import row_settings, statistics_settings

OTHER_SETTINGS = {"optimal_transport": [{"then": "regmean"}], "regmean": [{"gram": "weighted"}]}
"""With which a method asks for more."""


@pytest.mark.parametrize("name", sorted(method_types()))
def test_it_is_what_the_method_asks_for(name: str) -> None:
    kind = method_types()[name]
    asked = {kind for more in [{}, *OTHER_SETTINGS.get(name, [])] for kind in method_types()[name](**more).statistics}
    if kind().needs_text:
        assert name not in statistics_settings()  # all may change its result
    else:
        of_all = ["statistics.seed", "statistics.published"]
        expected = {*(f"statistics.{kind}" for kind in asked), *(of_all if asked else [])}
        assert set(statistics_settings()[name]) == expected


def test_baselines_need_none() -> None:
    assert {statistics_settings()[name] for name in comparator_types()} == {()}


def test_all_settings_count_for_a_method_that_is_not_known() -> None:
    settings = {"method.x": "1", "statistics.gram.examples": "5", "suite.name": "s"}
    assert set(row_settings("somebody_elses", settings)) == {"method.x", "statistics.gram.examples"}
    assert set(row_settings("simple", settings)) == {"method.x"}


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        ("return ('gram',)", {"x": ("gram",)}),
        ("return ('gram',) if self.a else ('fisher', 'gram')", {"x": ("gram", "fisher")}),
        ("if self.a:\n            return ()\n        return ('fisher',)", {"x": ("fisher",)}),
        ("return KINDS", {}),
        ("return (*super().statistics, 'gram')", {}),
    ],
)
def test_what_the_source_does_not_state_is_not_guessed(
    tmp_path: Path, statistics: str, expected: dict[str, tuple[str, ...]]
) -> None:
    (tmp_path / "x.py").write_text(
        "class Base(ABC):\n    @property\n    def needs_text(self):\n        return False\n"
        f"@register_method('x')\nclass X(Base):\n    @property\n    def statistics(self):\n        {statistics}\n"
    )
    assert declared_statistics(tmp_path) == expected

"""The report's table of statistics settings against the methods, which it does not import."""

from __future__ import annotations

import pytest

from regmean_lab.config.baselines import comparator_types
from regmean_lab.merging import method_types
from regmean_lab.report.entries import STATISTICS_OF


@pytest.mark.parametrize("name", sorted(set(STATISTICS_OF) & set(method_types())))
def test_it_lists_what_the_method_asks_for(name: str) -> None:
    asked = method_types()[name]().statistics
    expected = {*(f"statistics.{kind}" for kind in asked), *(["statistics.seed"] if asked else [])}
    assert set(STATISTICS_OF[name]) == expected


def test_it_lists_no_more_than_there_is() -> None:
    assert set(STATISTICS_OF) <= {*method_types(), *comparator_types()}


def test_methods_that_read_texts_may_depend_on_all_settings() -> None:
    assert not [name for name, method in method_types().items() if name in STATISTICS_OF and method().needs_text]

"""What ``regmean_lab.statistics`` offers comes when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import regmean_lab.statistics

LATER = """
import sys
import regmean_lab.statistics
from regmean_lab.statistics.settings import GramConfig
assert "torch" not in sys.modules
assert regmean_lab.statistics.rows.RowSelection.__name__ == "RowSelection"  # a file of the folder
assert regmean_lab.statistics.GramConfig is GramConfig
"""


def test_settings_come_without_pytorch() -> None:
    subprocess.run([sys.executable, "-c", LATER], check=True)


def test_a_star_brings_all_that_is_listed() -> None:
    names: dict[str, object] = {}
    exec("from regmean_lab.statistics import *", names)
    assert {"KINDS", "collect_gram", "GramFile"} <= set(regmean_lab.statistics.__all__) <= set(names)
    assert set(regmean_lab.statistics.__all__) <= set(dir(regmean_lab.statistics))


def test_an_unknown_name_is_an_error_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'colect_gram'"):
        regmean_lab.statistics.colect_gram  # noqa: B018
    assert not hasattr(regmean_lab.statistics, "__wrapped__")

"""Tests with real models and data, which ``make test-real`` installs and downloads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "REGMEAN_LAB_TEST_REAL"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where they were not asked for."""
    if os.environ.get(VARIABLE):
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="real models and data: make test-real"))

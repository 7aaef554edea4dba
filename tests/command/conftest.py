from __future__ import annotations

from collections.abc import Iterator

import pytest
from forks import Forks, forking


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """What runs commands in little time."""
    with forking() as started:
        yield started

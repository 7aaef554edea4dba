from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_members import Member, draw_members
from test_refining_merge import draw as draw

from regmean_lab.zoo import Zoo


@pytest.fixture
def members(tmp_path: Path, pico_cache: Path, write_emotions: Callable[[Path], Path]) -> list[Member]:
    """Two pico members of the emotion suite in a zoo, with random weights."""
    return draw_members(write_emotions(tmp_path), Zoo(tmp_path / "zoo"), pico_cache)

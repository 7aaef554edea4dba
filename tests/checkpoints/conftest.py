from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Composes configurations of `collect_statistics`, whose folders are the test's own."""
    own = [f"paths.output_dir={tmp_path}", f"paths.zoo_dir={tmp_path}", "trainer=cpu", "trainer.progress_bar=false"]
    return partial(compose_job, *own, root="collect_statistics")

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from omegaconf import DictConfig

from regmean_lab.config.locations import configuration_root
from regmean_lab.tracking.sweep_name import SWEEP_VARIABLE


@pytest.fixture
def common(
    tmp_path: Path,
    write_emotions: Callable[[Path], Path],
    compose_job: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[list[str]]:
    """Overrides of a sweep in an empty zoo, and Hydra initialised."""
    monkeypatch.setenv(SWEEP_VARIABLE, "sweep")
    write_emotions(tmp_path / "data")
    with initialize_config_dir(str(configuration_root() / "conf"), version_base="1.3"):
        yield [
            "suite=emotion",
            "suite.out_of_domain=[emoint]",
            "model=pico_bert",
            f"paths.data_dir={tmp_path / 'data'}",
            f"paths.zoo_dir={tmp_path / 'zoo'}",
            f"paths.output_dir={tmp_path / 'outputs'}",
        ]

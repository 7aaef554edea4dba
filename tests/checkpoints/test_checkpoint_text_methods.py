"""Methods that read members' text are refused: a folder has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_folders import save_classifier

from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge
from regmean_lab.merging import MergeMethod
from regmean_lab.merging.regmean_plusplus import RegMeanPlusPlus
from regmean_lab.merging.regmean_sequential import RegMeanSequential
from regmean_lab.models.headers import CheckpointError


@pytest.mark.parametrize("method", [RegMeanPlusPlus(), RegMeanSequential()], ids=lambda method: method.name)
def test_methods_that_read_text_are_refused(method: MergeMethod, tmp_path: Path, pico_cache: Path) -> None:
    for seed, name in enumerate("ab"):
        save_classifier(tmp_path / name, pico_cache, seed)
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(MergeRequest([str(tmp_path / "a"), str(tmp_path / "b")], method))
    assert caught.value.problems == [
        f"method: {method.name} reads the members' text while it merges, and checkpoints come without; choose another "
        "one, or merge members of a suite"
    ]

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from test_summary_table import result

from regmean_lab.report.figures import score_figure
from regmean_lab.results import Result

CASES = {
    "several": [result("simple"), result("regmean"), result("regmean", seed=2, scores={"tec": 70.0, "isear": 80.0})],
    "nothing out of domain": [result("simple", outside={})],
    "only some out of domain": [result("simple", outside={}), result("regmean")],
    "all alike": [result(scores={"tec": 100.0}), result("simple", scores={"tec": 100.0})],
    "negative": [result(scores={"tec": -10.0}, outside={"emoint": -20.0})],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("error")
def test_a_figure_is_drawn(name: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "scores.png"
    results: list[Result] = CASES[name]
    score_figure(results, path)
    image = matplotlib.image.imread(path)
    assert image.shape[0] > 300
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 10
    assert [part.name for part in path.parent.iterdir()] == ["scores.png"]

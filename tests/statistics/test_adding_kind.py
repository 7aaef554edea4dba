"""docs/adding/kind.md: its two files in a copy of the package, where nothing else is edited."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import regmean_lab

PACKAGE = Path(regmean_lab.__file__).parent
PAGE = PACKAGE.parent / "docs" / "adding" / "kind.md"
USE = """
import torch
from torch import nn

from regmean_lab.config.groups import StatisticsConfig
from regmean_lab.merging import MergeMember, layout_of, merge_members, method_types
from regmean_lab.statistics import KINDS
from regmean_lab.statistics.kinds.input_squares import InputSquares

assert list(KINDS) == ["gram", "fisher", "gradient_gram", "weighted_gram", "tokens", "input_squares"]
settings = StatisticsConfig()
assert settings.input_squares.examples == 1000
settings.input_squares.batches = 0
assert settings.problems() == ["input_squares.batches: expected at least 1 or null, got 0"]

torch.manual_seed(0)
models = [nn.Sequential(nn.Linear(3, 2, bias=False)) for _ in range(2)]
members, sizes = [], []
for number, model in enumerate(models):
    batches = [{"x": torch.randn(4, 5, 3), "attention_mask": torch.randint(2, (4, 5))} for _ in range(3)]
    accumulator = InputSquares(model)
    for batch in batches:
        accumulator.add(batch, lambda batch: model(batch["x"]), batch["attention_mask"])
    statistics = accumulator.compute()
    rows = torch.cat([batch["x"][batch["attention_mask"].bool()] for batch in batches])
    torch.testing.assert_close(statistics.matrices["0"], rows.square().mean(0))
    assert (statistics.rows, statistics.examples, statistics.batches) == ({"0": len(rows)}, 12, 3)
    KINDS["input_squares"].save(f"{number}.safetensors", statistics, {"settings": {}})
    file = KINDS["input_squares"].file(f"{number}.safetensors")
    sizes.append(file.read("0"))
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    members.append(MergeMember(str(number), weights, others={"input_squares": file}))
(merged,) = merge_members(method_types()["feature_scaled"](), members, layout_of(models[0]))
first, second = (model[0].weight.detach() for model in models)
torch.testing.assert_close(merged.value, (sizes[0] * first + sizes[1] * second) / (sizes[0] + sizes[1]))
"""


def test_the_page_adds_a_kind_and_a_method_that_needs_it(tmp_path: Path) -> None:
    kind, method = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    shutil.copytree(PACKAGE, tmp_path / "regmean_lab", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "regmean_lab" / "statistics" / "kinds" / "input_squares.py").write_text(kind, encoding="utf-8")
    (tmp_path / "regmean_lab" / "merging" / "feature_scaled.py").write_text(method, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

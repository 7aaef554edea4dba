"""The scripts in examples/, as docs/library.md tells to run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_models_are_merged_from_statistics_without_any_framework() -> None:
    """The merged model beats both members and their mean; no framework was imported."""
    script = ROOT / "examples" / "merge_from_statistics.py"
    code = (
        f"import runpy, sys; runpy.run_path({str(script)!r}, run_name='__main__'); "
        "print(*{'hydra', 'pytorch_lightning', 'transformers', 'datasets', 'wandb', 'omegaconf'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    *lines, loaded = finished.stdout.splitlines()
    errors = {name: float(error) for name, error in (line.split() for line in lines)}
    assert list(errors) == ["left", "right", "simple", "regmean"]
    assert errors["regmean"] < 0.5 * min(errors["left"], errors["right"], errors["simple"])
    assert loaded == ""


def test_the_script_is_the_one_that_the_documentation_shows() -> None:
    """Every line of code in docs/library.md occurs in the script."""
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    script = (ROOT / "examples" / "merge_from_statistics.py").read_text(encoding="utf-8")
    shown = text.partition("```python\n")[2].partition("```")[0]
    assert len(shown.splitlines()) > 10
    assert [line for line in shown.splitlines() if line.strip() and line not in script.splitlines()] == []

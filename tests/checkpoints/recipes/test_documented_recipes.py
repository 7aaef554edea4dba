"""The examples of docs/recipes.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regmean_lab.checkpoints.recipe.reading import Reference, read_recipe
from regmean_lab.checkpoints.recipe.translation import translated
from regmean_lab.models.headers import CheckpointError

TEXT = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")

WRONG = """\
merge_metod: ties
base_model: owner/base
models:
  - model: owner/first
    parameters:
      densty: 0.5
      weight: [0, 0.5, 1]
  - model: owner/second
parameters:
  normalise: true
"""


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(TEXT.partition("```yaml\n")[2].partition("```")[0])
    recipe = read_recipe(tmp_path / "recipe.yml")
    assert recipe.models[1].reference == Reference("owner/second@v2", "owner/adapter")
    assert translated(recipe)[2] == []


def test_what_is_wrong_is_told_like_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(WRONG)
    with pytest.raises(CheckpointError) as caught:
        read_recipe(Path("recipe.yml"))
    assert caught.value.problems == re.findall(r"^      - (recipe\.yml:.*)$", TEXT, re.M)


def test_what_is_imported_is_there() -> None:
    code = TEXT.partition("```python\n")[2].partition("```")[0]
    exec("\n".join(line for line in code.splitlines() if "import" in line), {})

"""The embedded default, MiniLM on the sentiment suite: the round trip without data, and the notebook as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from omegaconf import DictConfig
from round_trip import publish_and_merge

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "demo.ipynb"
FOLDERS = 'data_dir, zoo_dir = "data", "zoo"'
CHANCE = 50


def test_owners_publish_delete_their_data_and_a_stranger_merges(
    tmp_path: Path, compose_job: Callable[..., DictConfig]
) -> None:
    """The weights are those of the experiment to the last bit, and they tell negative from positive."""
    overrides = ["suite=sentiment", "model=minilm", "suite.train_examples=240", "suite.dev_examples=100"]
    overrides += ["suite.test_examples=200", "training.epochs=2", "training.batch_size=8", "method=regmean"]
    result, ours, theirs = publish_and_merge(
        tmp_path, ("tweets", "nyt"), compose_job, overrides, "gram", collecting=["allow_few_rows=true", "max_length=64"]
    )
    assert set(theirs) == set(ours)
    assert [name for name in ours if not torch.equal(theirs[name], ours[name])] == []
    assert all(score > CHANCE + 10 for score in result.scores["in_domain"].values())


def test_the_notebook_with_its_own_settings(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert '"minilm"' in parameters.source
    parameters.source += f"\n{FOLDERS}"
    notebook.cells.append(nbformat.v4.new_code_cell("print(table[members].to_json(orient='index'))"))
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    table = json.loads(notebook.cells[-1].outputs[0].text)
    assert set(table) == {"trained on tweets", "trained on nyt", "simple", "regmean"}
    for method in ("simple", "regmean"):
        assert all(score > CHANCE + 10 for score in table[method].values())
